//! Starting ranks, on images of noise: a value that lies at the kink of a ReLU within the rounding of sums decides by
//! it whether its gradient counts, and then nothing is comparable after a few steps. Of small noise there are too few
//! values for that.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use safetensors::SafeTensors;
use tensor::Rng;

use crate::records::text;

/// Images in training, in the test, and pixels on a side.
const IMAGES: [(&str, usize); 2] = [("train", 160), ("val", 23)];
const SIZE: usize = 8;
const CLASSES: usize = 4;

/// A small network on those images; `noise` lies in the working directory.
pub const SMALL: &str =
    "--net resnet8 --branches 3 --data noise --image-size 8 --augment none --batch 8 --eval-batch 16 --lr 0.01";

/// A folder of images, each class with another colour.
pub fn make_images(folder: &Path) {
    let mut rng = Rng::named("noise", &[1]);
    for (split, count) in IMAGES {
        for image in 0..count {
            let class = image % CLASSES;
            let folder = folder.join(split).join(format!("class {class}"));
            fs::create_dir_all(&folder).expect("folder");
            let pixels: Vec<u8> = (0..SIZE * SIZE * 3)
                .map(|i| (rng.below(180) + if i % 3 == class % 3 { 25 * (class + 1) / 2 } else { 0 }) as u8)
                .collect();
            let file = File::create(folder.join(format!("{image}.png"))).expect("file");
            let mut encoder = png::Encoder::new(BufWriter::new(file), SIZE as u32, SIZE as u32);
            encoder.set_color(png::ColorType::Rgb);
            encoder.write_header().and_then(|mut writer| writer.write_image_data(&pixels)).expect("written");
        }
    }
}

/// A folder with images, to run in.
pub fn place() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("temporary folder");
    make_images(&folder.path().join("noise"));
    folder
}

/// `mpirun` with these arguments, in `folder`; `TRAIN` among them is the program.
pub fn mpirun(folder: &Path, arguments: &str) -> Command {
    let mut command = Command::new("mpirun");
    command
        .args(arguments.split_whitespace().map(|part| if part == "TRAIN" { env!("CARGO_BIN_EXE_train") } else { part }))
        .current_dir(folder)
        .env("NODEVICE_SELECT", "1")
        // Tests run as root in containers, with more ranks than there are cores.
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .env("OMPI_MCA_rmaps_base_oversubscribe", "1")
        .env("OMPI_MCA_mpi_yield_when_idle", "1")
        .env("OMPI_MCA_hwloc_base_binding_policy", "none");
    command
}

/// The command of `ranks` ranks of the small network on the CPU device, with more options.
pub fn ranks(folder: &Path, count: usize, options: &str) -> Command {
    mpirun(folder, &format!("-n {count} TRAIN {SMALL} --device cpu {options}"))
}

/// The program alone, likewise.
pub fn alone(folder: &Path, options: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_train"));
    command.args(SMALL.split_whitespace()).args(["--device", "cpu"]).args(options.split_whitespace());
    command.current_dir(folder).env("NODEVICE_SELECT", "1");
    command
}

/// `train eval` on the CPU device.
pub fn eval(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_train"));
    command.args(["eval", "--device", "cpu"]).current_dir(folder);
    command
}

/// Runs a command that must end within two minutes, and returns what it printed.
pub fn output(command: &mut Command) -> Output {
    let child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("mpirun is installed: tools/mpi.sh");
    let id = child.id();
    // A command that hangs is ended, and fails by its status.
    let (done, ended) = std::sync::mpsc::channel::<()>();
    let watch = thread::spawn(move || {
        if ended.recv_timeout(Duration::from_secs(120)).is_err() {
            signal(id, "KILL");
        }
    });
    let output = child.wait_with_output().expect("waited for");
    let _ = done.send(());
    watch.join().expect("the watch does not panic");
    output
}

/// The stdout of a command that must succeed; otherwise as [`output`].
pub fn succeed(command: &mut Command) -> String {
    let output = output(command);
    assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// The one sentence of a command that must fail with `status`; otherwise as [`output`].
#[track_caller]
pub fn fail(command: &mut Command, status: i32) -> String {
    let output = output(command);
    let stderr = text(&output.stderr);
    assert!(!stderr.contains("panicked"), "{stderr}");
    let errors: Vec<&str> = stderr.lines().filter(|line| line.contains("error: ")).collect();
    assert_eq!((errors.len(), output.status.code()), (1, Some(status)), "{stderr}");
    errors[0].to_owned()
}

/// Sends a signal to a process.
pub fn signal(process: u32, name: &str) {
    let sent = Command::new("kill").args([format!("-{name}"), process.to_string()]).status();
    assert!(sent.is_ok(), "kill is there");
}

/// Processes of the program below `launcher`, by rank.
#[cfg(target_os = "linux")]
pub fn processes(launcher: u32) -> Vec<u32> {
    let read = |process: u32, file: &str| fs::read_to_string(format!("/proc/{process}/{file}")).unwrap_or_default();
    let own = |process: &u32| {
        let stat = read(*process, "stat");
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
        parent == Some(launcher) && stat.contains("(train)")
    };
    let mut found: Vec<u32> = fs::read_dir("/proc")
        .expect("Linux")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(own)
        .collect();
    let rank = |process: &u32| {
        let environment = fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
        let text = String::from_utf8_lossy(&environment).into_owned();
        text.split('\0').find_map(|entry| entry.strip_prefix("OMPI_COMM_WORLD_RANK=")?.parse::<usize>().ok())
    };
    found.sort_by_key(rank);
    found
}

/// Replaces a float wherever a process of this user has it in memory that it writes to, and returns how often.
#[cfg(target_os = "linux")]
pub fn replace_in_memory(process: u32, value: f32, with: f32) -> usize {
    use std::os::unix::fs::FileExt;
    let memory = File::options().read(true).write(true).open(format!("/proc/{process}/mem")).expect("a child's memory");
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).expect("Linux");
    let mut count = 0;
    for line in maps.lines().filter(|line| line.contains(" rw-p ")) {
        let (start, end) = line.split(' ').next().and_then(|range| range.split_once('-')).expect("a range");
        let [start, end] = [start, end].map(|place| u64::from_str_radix(place, 16).expect("an address"));
        let mut bytes = vec![0; (end - start) as usize];
        // Memory that was freed meanwhile cannot be read.
        if memory.read_exact_at(&mut bytes, start).is_err() {
            continue;
        }
        for (index, word) in bytes.as_chunks().0.iter().enumerate() {
            if *word == value.to_le_bytes() {
                count += usize::from(memory.write_all_at(&with.to_le_bytes(), start + 4 * index as u64).is_ok());
            }
        }
    }
    count
}

/// Tells whether a process lives; one that is dead and not yet waited for does not.
#[cfg(target_os = "linux")]
pub fn lives(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .and_then(|rest| rest.split_whitespace().next())
        .is_some_and(|state| state != "Z" && state != "X")
}

/// Waits until something is so, or a minute.
#[track_caller]
pub fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what} did not come about within a minute");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Starts a run that goes on for long, and returns when it has saved something.
pub fn start(mut command: Command, run: &Path) -> Child {
    let child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("mpirun is installed: tools/mpi.sh");
    wait_until("the first checkpoint", || run.join("last.safetensors").exists());
    child
}

/// The floats of a checkpoint, by name.
pub fn floats(run: &Path) -> HashMap<String, Vec<f32>> {
    let bytes = fs::read(run.join("last.safetensors")).expect("saved");
    let file = SafeTensors::deserialize(&bytes).expect("readable");
    let read = |data: &[u8]| data.as_chunks().0.iter().map(|&word| f32::from_le_bytes(word)).collect();
    file.tensors().into_iter().map(|(name, view)| (name, read(view.data()))).collect()
}

/// The largest difference between the weights of two runs, and between those of the first and of a third.
pub fn differences(run: &Path, other: &Path, begin: &Path) -> (f32, f32) {
    let (a, b, c) = (floats(run), floats(other), floats(begin));
    let weights = a
        .keys()
        .filter(|name| !name.starts_with("momentum.") && !name.contains("running_") && !name.contains("totals"));
    let largest = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
    weights.fold((0.0, 0.0), |(difference, moved), name| {
        (f32::max(difference, largest(&a[name], &b[name])), f32::max(moved, largest(&a[name], &c[name])))
    })
}
