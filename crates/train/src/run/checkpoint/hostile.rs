//! Files of tensors with random damage: reading one, and loading it into a network, gives what it holds or one
//! sentence, never a panic, and never takes much memory.
//!
//! `ONFLY_HOSTILE_CASES` says how many files each property tries.

use std::fs;

use nets::{Mode, Model};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config as Cases, TestRunner};
use serde_json::{Map, Value, json};
use tensor::{Device, Graph, Spec};

use super::*;
use crate::options::args::Shortcut;

/// Files of each property unless the environment says otherwise.
const CASES: u32 = 400;

/// No file here holds a hundredth of it.
const MOST_MEMORY: u64 = 1 << 30;

/// Numbers that a length, an offset or an extent may claim to be.
const NUMBERS: [u64; 13] =
    [0, 1, 2, 7, 8, 255, 4096, 1 << 20, u32::MAX as u64, 1 << 32, 1 << 62, i64::MAX as u64, u64::MAX];

/// Types that tensors of this format have, and some that there are not.
const TYPES: [&str; 16] = [
    "F32", "F16", "BF16", "F64", "I64", "I32", "U8", "BOOL", "F8_E5M2", "F4", "F6_E2M3", "E8M0", "U64", "f32", "C64",
    "",
];

/// Damage to a file's bytes.
#[derive(Debug, Clone)]
enum Damage {
    Set(usize, u8),
    Flip(usize, u8),
    /// The length of the header, which the file begins with.
    HeaderLength(u64),
    Cut(usize),
    Append(u8, u16),
    Remove(usize, u8),
    Repeat(usize, u8),
}

impl Damage {
    fn apply(&self, file: &mut Vec<u8>) {
        let length = file.len().max(1);
        match *self {
            Self::Set(at, value) => file.iter_mut().skip(at % length).take(1).for_each(|byte| *byte = value),
            Self::Flip(at, bit) => file.iter_mut().skip(at % length).take(1).for_each(|byte| *byte ^= 1 << bit),
            Self::HeaderLength(claimed) => {
                file.iter_mut().zip(claimed.to_le_bytes()).for_each(|(byte, value)| *byte = value);
            }
            Self::Cut(at) => file.truncate(at % length),
            Self::Append(value, count) => file.resize(file.len() + usize::from(count), value),
            Self::Remove(at, count) => {
                let at = (at % length).min(file.len());
                file.drain(at..(at + usize::from(count)).min(file.len()));
            }
            Self::Repeat(at, count) => {
                let at = (at % length).min(file.len());
                let part = file[at..(at + usize::from(count)).min(file.len())].to_vec();
                file.splice(at..at, part);
            }
        }
    }
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![select(&NUMBERS[..]), 0..5000_u64, any::<u64>()]
}

fn damage() -> impl Strategy<Value = Vec<Damage>> {
    let place = any::<usize>;
    let one = prop_oneof![
        (place(), any::<u8>()).prop_map(|(at, value)| Damage::Set(at, value)),
        (place(), 0..8_u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        number().prop_map(Damage::HeaderLength),
        place().prop_map(Damage::Cut),
        (any::<u8>(), any::<u16>()).prop_map(|(value, count)| Damage::Append(value, count)),
        (place(), any::<u8>()).prop_map(|(at, count)| Damage::Remove(at, count)),
        (place(), any::<u8>()).prop_map(|(at, count)| Damage::Repeat(at, count)),
    ];
    prop::collection::vec(one, 1..4)
}

/// A value where another kind of one belongs, or a number out of range.
fn anything() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        number().prop_map(Value::from),
        (-5..0_i64).prop_map(Value::from),
        select(vec![0.5, -1.5, 1e300, 1e-300]).prop_map(Value::from),
        select(&TYPES[..]).prop_map(Value::from),
        prop::collection::vec(number(), 0..5).prop_map(Value::from),
        Just(json!({})),
        // Deep enough to end a parser that calls itself.
        Just((0..300).fold(json!([]), |inner, _| json!([inner]))),
    ]
}

/// Damage to the table of tensors.
#[derive(Debug, Clone)]
enum Change {
    Type(usize, &'static str),
    Shape(usize, Vec<u64>),
    Offsets(usize, u64, u64),
    /// Gives one tensor the bytes of another.
    Overlap(usize, usize),
    Field(usize, &'static str, Value),
    /// Gives a tensor a name that means the same as, or is close to, another's.
    Rename(usize, &'static str),
    Remove(usize),
    Insert(String, Value),
    Metadata(Value),
}

fn change() -> impl Strategy<Value = Vec<Change>> {
    let tensor = || 0..200_usize;
    let fields = vec!["dtype", "shape", "data_offsets", "more"];
    let names = vec![
        "module.fc.weight",
        "linear.weight",
        "fc.weight",
        "__metadata__",
        "",
        "branches..",
        "momentum.",
        "gate.x\ny",
    ];
    let one = prop_oneof![
        (tensor(), select(&TYPES[..])).prop_map(|(i, name)| Change::Type(i, name)),
        (tensor(), prop::collection::vec(number(), 0..6)).prop_map(|(i, shape)| Change::Shape(i, shape)),
        (tensor(), number(), number()).prop_map(|(i, from, to)| Change::Offsets(i, from, to)),
        (tensor(), tensor()).prop_map(|(i, j)| Change::Overlap(i, j)),
        (tensor(), select(fields), anything()).prop_map(|(i, field, value)| Change::Field(i, field, value)),
        (tensor(), select(names)).prop_map(|(i, name)| Change::Rename(i, name)),
        tensor().prop_map(Change::Remove),
        (".{0,9}", anything()).prop_map(|(name, value)| Change::Insert(name, value)),
        anything().prop_map(Change::Metadata),
    ];
    prop::collection::vec(one, 1..4)
}

impl Change {
    fn apply(&self, table: &mut Map<String, Value>) {
        let keys: Vec<String> = table.keys().filter(|key| *key != "__metadata__").cloned().collect();
        let key = |i: usize| keys.get(i % keys.len().max(1)).cloned().unwrap_or_default();
        let mut set = |i: usize, field: &str, value: Value| {
            if let Some(Value::Object(entry)) = table.get_mut(&key(i)) {
                entry.insert(field.to_owned(), value);
            }
        };
        match self {
            Self::Type(i, name) => set(*i, "dtype", json!(name)),
            Self::Shape(i, shape) => set(*i, "shape", json!(shape)),
            Self::Offsets(i, from, to) => set(*i, "data_offsets", json!([from, to])),
            Self::Field(i, field, value) => set(*i, field, value.clone()),
            Self::Overlap(i, j) => {
                if let Some(entry) = table.get(&key(*j)).cloned() {
                    table.insert(key(*i), entry);
                }
            }
            Self::Rename(i, name) => {
                if let Some(entry) = table.remove(&key(*i)) {
                    table.insert((*name).to_owned(), entry);
                }
            }
            Self::Remove(i) => drop(table.remove(&key(*i))),
            Self::Insert(name, value) => drop(table.insert(name.clone(), value.clone())),
            Self::Metadata(value) => drop(table.insert("__metadata__".to_owned(), value.clone())),
        }
    }
}

/// A file's table of tensors, and their bytes.
fn parts(file: &[u8]) -> (Map<String, Value>, Vec<u8>) {
    let length = u64::from_le_bytes(file[..8].try_into().expect("eight bytes")) as usize;
    (serde_json::from_slice(&file[8..8 + length]).expect("a table"), file[8 + length..].to_vec())
}

fn joined(table: &Map<String, Value>, bytes: &[u8]) -> Vec<u8> {
    let mut text = serde_json::to_vec(table).expect("written");
    text.resize(text.len().next_multiple_of(8), b' ');
    [&(text.len() as u64).to_le_bytes()[..], &text, bytes].concat()
}

/// A small network with two branches, and its state.
struct Subject {
    device: Device,
    model: Model,
    state: Vec<NamedTensor>,
}

fn subject() -> Subject {
    let (device, mut model, mut graph) = (Device::cpu(), Model::new(), Graph::new());
    let network = network();
    let architecture = network.architecture().expect("known");
    let method = network.method_config(Method::One, true, 10).expect("valid");
    let image = graph.input("image", Spec::f32([1, 1, 32, 32, 4]));
    one::record(&mut graph, &mut model, &*architecture, Mode::Inference, image, &method).expect("recorded");
    model.initialize(&device, 1).expect("initialised");
    let state = model.state(&device).expect("read");
    Subject { device, model, state }
}

fn network() -> Network {
    Network { net: "resnet8".to_owned(), shortcut: Shortcut::B, branches: 2, fan_out: "layer3".to_owned() }
}

/// A checkpoint as a run writes it, and weights as other programs do: half-precision floats, counts, prefixes.
fn files(subject: &Subject) -> Vec<Vec<u8>> {
    let (header, small) = tests::sample();
    let checkpoint = Checkpoint { state: subject.state.clone(), ..small.clone() };
    let path = Path::new("checkpoint");
    let bytes =
        |checkpoint: &Checkpoint| serialize(&header, tensors(path, checkpoint).expect("finite")).expect("bytes");
    let foreign = subject.state.iter().filter(|tensor| !tensor.name.starts_with("branches.")).map(|tensor| {
        let name = format!("module.{}", tensor.name);
        let half = tensor.data.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect();
        Encoded { name, dtype: Dtype::F16, shape: tensor.shape.clone(), bytes: half }
    });
    let mut foreign: Vec<Encoded> = foreign.collect();
    foreign.push(Encoded::integers("module.bn1.num_batches_tracked", Vec::new(), &[5]));
    vec![bytes(&small), bytes(&checkpoint), tensor_file::serialize(&foreign, HashMap::new()).expect("bytes")]
}

fn sentence(error: &anyhow::Error) -> std::result::Result<(), TestCaseError> {
    let text = format!("{error:#}");
    prop_assert!(!text.is_empty() && !text.contains('\n') && text.len() < 20_000, "{text}");
    Ok(())
}

/// Tries files that `make` makes of a strategy's values: reads each as a checkpoint, and loads it into the network.
fn try_all<S: Strategy>(strategy: &S, make: impl Fn(&Subject, &[Vec<u8>], S::Value) -> Vec<u8>) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("damaged");
    let (subject, cases) = (subject(), std::env::var("ONFLY_HOSTILE_CASES"));
    let whole = files(&subject);
    let cases = cases.ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES);
    let mut runner = TestRunner::new(Cases { cases, failure_persistence: None, ..Cases::default() });
    let outcome = runner.run(strategy, |value| {
        fs::write(&path, make(&subject, &whole, value)).expect("written");
        match read_own(&path) {
            Ok((header, checkpoint)) => {
                prop_assert!((1..=one::MAX_BRANCHES).contains(&header.network.branches));
                prop_assert!(header.position.step <= MOST_STEPS && header.mean.iter().all(|mean| mean.is_finite()));
                let velocities = subject.model.load_velocities(&subject.device, &checkpoint.velocities);
                velocities.map_err(Into::into).or_else(|error| sentence(&error))?;
            }
            Err(error) => sentence(&error)?,
        }
        match read(&path) {
            Ok(checkpoint) => {
                let size = |tensor: &NamedTensor| tensor.shape.iter().product::<usize>() == tensor.data.len();
                prop_assert!(checkpoint.state.iter().all(size));
                let loaded = subject.model.load_start(&subject.device, &checkpoint.state);
                loaded.map(drop).map_err(Into::into).or_else(|error| sentence(&error))?;
                let _ = nets::deployed(&checkpoint.state, 1);
            }
            Err(error) => sentence(&error)?,
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak =
        text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB")?.trim().parse().ok());
    let peak: u64 = peak.unwrap_or(0) << 10;
    assert!(peak < MOST_MEMORY, "{} MiB", peak >> 20);
}

#[test]
fn files_of_tensors_with_damaged_bytes() {
    try_all(&(0..3_usize, damage()), |_, files, (which, damage)| {
        let mut bytes = files[which].clone();
        damage.iter().for_each(|damage| damage.apply(&mut bytes));
        bytes
    });
}

#[test]
fn files_of_tensors_with_another_table() {
    try_all(&(0..3_usize, change()), |_, files, (which, changes)| {
        let (mut table, bytes) = parts(&files[which]);
        changes.iter().for_each(|change| change.apply(&mut table));
        joined(&table, &bytes)
    });
}

/// Whoever wants to can seal what he likes: the numbers of a header are taken no more on trust than others.
#[test]
fn checkpoints_with_another_header_that_is_sealed() {
    let fields = [
        "format",
        "net",
        "shortcut",
        "branches",
        "fan_out",
        "method",
        "gate",
        "classes",
        "data",
        "mean",
        "std",
        "seed",
        "epoch",
        "epoch_step",
        "step",
        "best",
        "last_error",
        "image_size",
        "augment",
        "checksum",
    ];
    let change = (select(fields.to_vec()), prop_oneof![anything(), Just(json!([0.5, 0.0, 1e39]))]);
    let changes = prop::collection::vec(change, 1..3);
    try_all(&(0..2_usize, changes), |_, files, (which, changes)| {
        let (mut table, bytes) = parts(&files[which]);
        let text = table["__metadata__"][KEY].as_str().expect("a header").to_owned();
        let mut header: Map<String, Value> = serde_json::from_str(&text).expect("an object");
        header.insert("seal".to_owned(), json!(""));
        changes.into_iter().for_each(|(field, value)| drop(header.insert(field.to_owned(), value)));
        let text = serde_json::to_string(&header).expect("written");
        let whole = joined(&table, &bytes);
        let tensors = SafeTensors::deserialize(&whole).expect("whole");
        let mut names = tensors.names();
        names.sort_unstable();
        let views: Vec<_> = names.iter().map(|name| (*name, tensors.tensor(name).expect("there"))).collect();
        let seal = seal(&text, views.iter().map(|(name, view)| (*name, view.dtype(), view.shape())));
        table["__metadata__"][KEY] = json!(text.replace(&sealed(""), &sealed(&seal)));
        joined(&table, &bytes)
    });
}
