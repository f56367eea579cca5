//! Records of runs, as tests read them.

use std::path::Path;

/// The output of a program.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The bytes of a run's complete state.
pub fn last(run: &Path) -> Vec<u8> {
    std::fs::read(run.join("last.safetensors")).expect("saved")
}

/// The objects of a run's metrics.
pub fn metrics(run: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).expect("written");
    text.lines().map(|line| serde_json::from_str(line).expect("an object per line")).collect()
}

/// Metrics without what depends on the machine.
pub fn comparable(run: &Path) -> Vec<serde_json::Value> {
    let mut objects = metrics(run);
    for object in &mut objects {
        let fields = object.as_object_mut().expect("an object");
        assert!(fields.remove("images_per_second").is_some() && fields.remove("device").is_some());
        fields.remove("data_wait_share");
        fields.remove("prepared_images_per_second");
    }
    objects
}
