//! Weights in and out: exports, other implementations' names, other floats, and weights to begin with.

use std::fs;
use std::path::Path;

use half::f16;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::program::{SMALL, argument, command, error_line, fail, folder, succeed};

/// A tensor of a file.
#[derive(Debug, Clone, PartialEq)]
struct Tensor {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Tensor {
    fn floats(&self) -> Vec<f32> {
        assert_eq!(self.dtype, Dtype::F32, "{}", self.name);
        self.bytes.as_chunks().0.iter().map(|&word| f32::from_le_bytes(word)).collect()
    }

    fn integers(&self) -> Vec<i64> {
        assert_eq!(self.dtype, Dtype::I64, "{}", self.name);
        self.bytes.as_chunks().0.iter().map(|&word| i64::from_le_bytes(word)).collect()
    }
}

/// The tensors of a file in the order of their names.
fn read(path: &Path) -> Vec<Tensor> {
    let bytes = fs::read(path).expect("written");
    let file = SafeTensors::deserialize(&bytes).expect("whole");
    let tensor = |(name, view): (String, TensorView<'_>)| Tensor {
        name,
        dtype: view.dtype(),
        shape: view.shape().to_vec(),
        bytes: view.data().to_vec(),
    };
    let mut tensors: Vec<Tensor> = file.tensors().into_iter().map(tensor).collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    tensors
}

/// Writes a file as another program would: without what a checkpoint says of itself.
fn write(path: &Path, tensors: &[Tensor]) {
    let views = tensors.iter().map(|tensor| {
        let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes).expect("a tensor");
        (&tensor.name, view)
    });
    fs::write(path, safetensors::serialize(views, None).expect("serialised")).expect("written");
}

fn renamed(tensors: &[Tensor], name: impl Fn(&str) -> String) -> Vec<Tensor> {
    tensors.iter().map(|tensor| Tensor { name: name(&tensor.name), ..tensor.clone() }).collect()
}

fn find<'a>(tensors: &'a [Tensor], name: &str) -> &'a Tensor {
    tensors.iter().find(|tensor| tensor.name == name).unwrap_or_else(|| panic!("no {name}"))
}

/// The errors in the row of a table that begins with `name`.
fn row(table: &str, name: &str) -> String {
    let row = table.lines().find_map(|line| line.strip_prefix(name));
    row.unwrap_or_else(|| panic!("no {name} in {table}")).trim().to_owned()
}

fn evaluate(weights: &Path, options: &str) -> String {
    succeed(&format!("eval --device cpu --limit-test 50 {options} --weights {}", argument(weights)))
}

/// A tensor's name in kuangliu's implementations of residual networks, behind `DataParallel`.
fn kuangliu(name: &str) -> String {
    let name = name.replace(".downsample.", ".shortcut.").replace("fc.", "linear.");
    format!("module.{name}")
}

/// A tensor's name in torchvision's DenseNet.
fn torchvision(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    match parts[..] {
        ["conv1", leaf] => format!("features.conv0.{leaf}"),
        ["bn", leaf] => format!("features.norm5.{leaf}"),
        ["fc", leaf] => format!("classifier.{leaf}"),
        [block, layer, operation, leaf] => {
            let layer: usize = layer.parse().expect("a number");
            let (block, operation) = (block.replace("dense", "denseblock"), operation.replace("bn", "norm"));
            format!("features.{block}.denselayer{}.{operation}.{leaf}", layer + 1)
        }
        [transition, operation, leaf] => {
            let operation = if operation == "bn1" { "norm" } else { "conv" };
            format!("features.{}.{operation}.{leaf}", transition.replace("trans", "transition"))
        }
        _ => panic!("{name}"),
    }
}

#[test]
fn exports_are_the_branches_and_the_ensemble_that_eval_measured() {
    let (_folder, path) = folder();
    let (run, file) = (path("run"), path("out.safetensors"));
    succeed(&format!("{SMALL} --branches 3 --mean 0.4,0.5,0.6 --out {}", argument(&run)));
    let export = |options: &str| {
        succeed(&format!("export --run {} --to {} {options}", argument(&run), argument(&file)));
        read(&file)
    };
    for checkpoint in ["last", "best"] {
        let table = evaluate(&run.join(format!("{checkpoint}.safetensors")), "");
        for branch in ["0", "1", "2"] {
            let tensors = export(&format!("--branch {branch} --checkpoint {checkpoint}"));
            let alone = evaluate(&file, "");
            assert_eq!(row(&alone, "branch 0"), row(&table, &format!("branch {branch}")), "{alone}{table}");
            assert!(!alone.contains("branch 1"), "{alone}");
            let strange = ["momentum", "metrics", "gate", "branches"];
            assert!(tensors.iter().all(|tensor| !strange.iter().any(|part| tensor.name.contains(part))));
        }
        export(&format!("--branch all --checkpoint {checkpoint}"));
        assert_eq!(evaluate(&file, ""), table);
    }

    let all = export("--branch all");
    for norm in ["bn1", "layer3.0.bn2", "branches.2.layer3.0.bn2", "branches.1.layer3.0.downsample.1", "gate.bn"] {
        let counted = find(&all, &format!("{norm}.num_batches_tracked"));
        assert_eq!((counted.shape.len(), counted.integers()), (0, vec![12]), "{norm}");
    }
    assert!(export("") == export("--branch 0 --checkpoint last"), "the defaults");
    let target = export("--branch 0");
    assert!(target.iter().all(|tensor| find(&all, &tensor.name) == tensor));
    let first_layer = |branch: &str| find(&export(branch), "layer3.0.conv1.weight").floats();
    assert_eq!(first_layer("--branch 2"), find(&all, "branches.2.layer3.0.conv1.weight").floats());

    // A member that shares nothing.
    let (networks, member) = (path("networks"), path("member.safetensors"));
    succeed(&format!("{SMALL} --method dml --epochs 1 --out {}", argument(&networks)));
    succeed(&format!("export --run {} --branch 1 --to {}", argument(&networks), argument(&member)));
    let table = evaluate(&networks.join("last.safetensors"), "");
    assert_eq!(row(&evaluate(&member, ""), "branch 0"), row(&table, "branch 1"), "{table}");

    // A name without a folder.
    let output = command("export --run run --to bare.safetensors").current_dir(path("")).output().expect("started");
    assert!(output.status.success());
    assert!(read(&path("bare.safetensors")) == target);
}

#[test]
fn what_cannot_be_exported() {
    let (_folder, path) = folder();
    let run = path("run");
    succeed(&format!("{SMALL} --branches 1 --epochs 1 --out {}", argument(&run)));
    let export = |run: &Path, options: &str, status: i32, parts: &[&str]| {
        fail(&format!("export --run {} {options}", argument(run)), status, parts);
    };
    let to = format!("--to {}", argument(&path("out.safetensors")));
    export(&run, &format!("{to} --branch 1"), 2, &["no branch 1", "branch 0 only"]);
    export(&run, &format!("{to} --branch first"), 2, &["--branch", "or all"]);
    export(&path("nowhere"), &to, 1, &["nowhere is no run's directory"]);
    export(&run, &format!("--to {}", argument(&path(""))), 1, &["--to", "is a directory"]);
    export(&run, &format!("--to {}", argument(&path("no").join("file"))), 1, &["directory of --to", "does not exist"]);
    let own = format!("--to {}", argument(&run.join("last.safetensors")));
    export(&run, &own, 2, &["last.safetensors", "the run itself"]);
    fs::remove_file(run.join("best.safetensors")).expect("removed");
    export(&run, &format!("{to} --checkpoint best"), 1, &["has not saved", "best.safetensors"]);
    assert!(!path("out.safetensors").exists());
}

#[test]
fn weights_that_other_programs_wrote_load_by_their_names_and_from_their_floats() {
    let (_folder, path) = folder();
    for (net, theirs) in [("resnet8", kuangliu as fn(&str) -> String), ("densenet-bc-10-4", torchvision)] {
        let (run, own, file) = (path(net), path("own.safetensors"), path("weights.safetensors"));
        succeed(&format!("{SMALL} --net {net} --epochs 1 --out {}", argument(&run)));
        succeed(&format!("export --run {} --to {}", argument(&run), argument(&own)));
        let plain = read(&own);
        let options = format!("--net {net} --data shapes");
        let eval = |tensors: &[Tensor]| {
            write(&file, tensors);
            evaluate(&file, &options)
        };
        let errors = eval(&plain);
        assert_eq!(row(&errors, "branch 0"), row(&evaluate(&own, ""), "branch 0"), "{net}");
        let foreign = renamed(&plain, theirs);
        assert!(foreign.iter().all(|tensor| plain.iter().all(|own| own.name != tensor.name)));
        assert_eq!(eval(&foreign), errors, "{net}");
        let counted = |tensor: &&Tensor| !tensor.name.ends_with("num_batches_tracked");
        let uncounted: Vec<Tensor> = foreign.iter().filter(counted).cloned().collect();
        assert_eq!(eval(&uncounted), errors, "{net}");

        // The same errors, whatever the names.
        let refused = |tensors: &[Tensor]| {
            write(&file, tensors);
            let eval = format!("eval --device cpu --limit-test 50 {options} --weights {}", argument(&file));
            error_line(&command(&eval).output().expect("started"), 1)
        };
        let damage = |name: fn(&str) -> String| {
            let mut tensors = renamed(&plain, name);
            tensors.retain(|tensor| tensor.name != name("fc.bias"));
            let conv = tensors.iter_mut().find(|tensor| tensor.name == name("conv1.weight")).expect("there");
            conv.shape.swap(0, 1);
            let extra = Tensor { name: name("fc.scale"), ..conv.clone() };
            tensors.push(extra);
            refused(&tensors)
        };
        let line = damage(str::to_owned);
        assert_eq!(damage(theirs), line);
        for part in ["missing: fc.bias", "unexpected: fc.scale", "wrongly shaped: conv1.weight is [3, "] {
            assert!(line.contains(part), "{line}");
        }

        let twice: Vec<Tensor> = plain.iter().chain([find(&foreign, &theirs("fc.bias"))]).cloned().collect();
        let line = refused(&twice);
        assert!(line.contains("fc.bias") && line.contains(&theirs("fc.bias")) && line.contains("both"), "{line}");
        let mut integers = uncounted.clone();
        integers[0].dtype = Dtype::I32;
        let line = refused(&integers);
        assert!(line.contains(&integers[0].name) && line.contains("type I32"), "{line}");
        let mut infinite = uncounted.clone();
        infinite[0].bytes[..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
        let line = refused(&infinite);
        assert!(line.contains(&infinite[0].name) && line.contains("holds inf"), "{line}");

        // Half precision gives what its values give as 32-bit floats; double precision what the floats gave.
        let convert = |dtype, bytes: fn(f32) -> Vec<u8>| {
            let convert = |tensor: &Tensor| {
                let bytes = tensor.floats().into_iter().flat_map(bytes).collect();
                Tensor { dtype, bytes, ..tensor.clone() }
            };
            uncounted.iter().map(convert).collect::<Vec<Tensor>>()
        };
        let half = convert(Dtype::F16, |value| f16::from_f32(value).to_le_bytes().to_vec());
        let rounded = convert(Dtype::F32, |value| f16::from_f32(value).to_f32().to_le_bytes().to_vec());
        assert_eq!(eval(&half), eval(&rounded), "{net}");
        assert_eq!(eval(&convert(Dtype::F64, |value| f64::from(value).to_le_bytes().to_vec())), errors, "{net}");
    }
}

#[test]
fn a_run_begins_with_weights_or_not_at_all() {
    let (_folder, path) = folder();
    let (source, file) = (path("source"), path("weights.safetensors"));
    succeed(&format!("{SMALL} --epochs 1 --seed 3 --out {}", argument(&source)));
    let state = |run: &Path| {
        let trained = |tensor: &Tensor| !["momentum.", "metrics.", "running_"].iter().any(|p| tensor.name.contains(p));
        read(&run.join("last.safetensors")).into_iter().filter(trained).collect::<Vec<Tensor>>()
    };
    // At this rate a step changes no bit of a weight that is not tiny, so that what a run began with is what it saves.
    let begin = |name: &str, options: &str| {
        let run = path(name);
        let still = "--lr 1e-30 --weight-decay 0 --epochs 1 --limit-train 16";
        let text = succeed(&format!("{SMALL} {still} {options} --out {}", argument(&run)));
        (text, state(&run))
    };
    let equal = |a: &Tensor, b: &Tensor| {
        let close = a.floats().iter().zip(b.floats()).all(|(a, b)| (a - b).abs() < 1e-20);
        a.shape == b.shape && close
    };
    let (_, afresh) = begin("afresh", "");
    let given = state(&source);

    let (text, whole) = begin("whole", &format!("--init {}", argument(&source.join("last.safetensors"))));
    assert!(text.contains("all 2 branches and what they share"), "{text}");
    assert!(whole.iter().all(|tensor| equal(tensor, find(&given, &tensor.name))));

    succeed(&format!("export --run {} --branch 1 --to {}", argument(&source), argument(&file)));
    let foreign = path("foreign.safetensors");
    write(&foreign, &renamed(&read(&file), kuangliu));
    for (name, file) in [("one", &file), ("foreign", &foreign)] {
        let (text, begun) = begin(name, &format!("--init {}", argument(file)));
        assert!(text.contains("the shared stages and branch 0; all else begins at random"), "{text}");
        for tensor in &begun {
            let name = &tensor.name;
            let expected = if name.starts_with("branches.") || name.starts_with("gate.") {
                find(&afresh, name)
            } else {
                let branch = format!("branches.1.{name}");
                given.iter().find(|tensor| tensor.name == branch).unwrap_or_else(|| find(&given, name))
            };
            assert!(equal(tensor, expected), "{name}");
        }
        let config = fs::read_to_string(path(name).join("config.toml")).expect("written");
        assert!(config.contains("init = ") && config.contains("safetensors"), "{config}");
    }
    let (text, _) = begin("single", &format!("--branches 1 --init {}", argument(&file)));
    assert!(text.contains("the whole network"), "{text}");

    // A run that ended before its first checkpoint begins anew with the same weights; a later part of it goes on.
    fs::remove_file(path("one").join("last.safetensors")).expect("removed");
    fs::remove_file(path("one").join("metrics.jsonl")).expect("removed");
    let text = succeed(&format!("--resume {}", argument(&path("one"))));
    assert!(text.contains("the shared stages and branch 0"), "{text}");
    assert!(state(&path("one")) == state(&path("foreign")));
    assert!(!succeed(&format!("--resume {}", argument(&path("one")))).contains("the shared stages"));
    fail(&format!("--resume {} --init x", argument(&path("one"))), 2, &["--init", "--resume"]);

    let refused = |options: &str, parts: &[&str]| {
        fail(&format!("{SMALL} {options} --out {}", argument(&path("refused"))), 1, parts);
        assert!(!path("refused").exists());
    };
    let other = format!("--net resnet14 --init {}", argument(&file));
    refused(&other, &["cannot begin with", "missing: ", "layer1.1.conv1.weight", "layer3.1.bn2.running_var"]);
    let narrow = format!("--classes 4 --init {}", argument(&file));
    refused(&narrow, &["wrongly shaped: fc.weight is [10, 64] instead of [4, 64]"]);
    let last = argument(&source.join("last.safetensors"));
    refused(&format!("--branches 3 --init {last}"), &["missing: branches.2.layer3", "gate.fc.bias is [2]"]);
    refused(&format!("--branches 1 --init {last}"), &["unexpected: branches.1.fc.bias", "gate.fc.bias"]);
    refused("--init nowhere.safetensors", &["cannot read the checkpoint nowhere.safetensors"]);
}

#[test]
fn eval_writes_the_logits_that_its_errors_come_from() {
    let (_folder, path) = folder();
    let (run, file) = (path("run"), path("logits.safetensors"));
    succeed(&format!("{SMALL} --epochs 1 --out {}", argument(&run)));
    let weights = run.join("last.safetensors");
    let mut files = Vec::new();
    for batch in [50, 16] {
        let table = evaluate(&weights, &format!("--batch {batch} --logits {}", argument(&file)));
        let tensors = read(&file);
        let (logits, labels, gate) = (find(&tensors, "logits"), find(&tensors, "labels"), find(&tensors, "gate"));
        assert_eq!(
            (&logits.shape[..], &labels.shape[..], &gate.shape[..]),
            (&[2, 50, 10][..], &[50][..], &[50, 2][..])
        );
        let (values, labels, gate) = (logits.floats(), labels.integers(), gate.floats());
        let error = |logit: &dyn Fn(usize, usize) -> f32| {
            let wrong = |(image, &label): (usize, &i64)| {
                let best = (0..10).max_by(|&a, &b| logit(image, a).total_cmp(&logit(image, b)));
                best != usize::try_from(label).ok()
            };
            format!("{:.2} %", 2.0 * labels.iter().enumerate().filter(|&pair| wrong(pair)).count() as f64)
        };
        let of = |member: usize, image: usize, class: usize| values[(member * 50 + image) * 10 + class];
        let ensemble = |i: usize, k: usize| gate[2 * i] * of(0, i, k) + gate[2 * i + 1] * of(1, i, k);
        assert!(gate.chunks(2).all(|shares| (shares[0] + shares[1] - 1.0).abs() < 1e-6));
        for (name, found) in [
            ("branch 0", error(&|i, k| of(0, i, k))),
            ("branch 1", error(&|i, k| of(1, i, k))),
            ("ensemble (gated: ONE-E)", error(&ensemble)),
        ] {
            assert!(row(&table, name).starts_with(&found), "{found} of {name} in {table}");
        }
        files.push(tensors);
    }
    // Matrix products of other heights may round differently.
    for name in ["logits", "gate"] {
        let [a, b] = [0, 1].map(|i| find(&files[i], name).floats());
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-5), "{name} depends on the batch");
    }
    let eval = format!("eval --device cpu --weights {} --logits", argument(&weights));
    fail(&format!("{eval} {}", argument(&path(""))), 1, &["--logits", "is a directory"]);
}
