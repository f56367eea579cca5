//! The variants of kernels that a run takes, as its configuration records them: it goes on with them, whatever is known
//! of the adapter by then.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tensor::Choices;
use tensor::device::Adapter;

use super::ENGINE;

/// The variants of kernels that a run takes, as its configuration tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Tuning {
    /// Their fingerprint alone, as earlier versions wrote it.
    Fingerprint(String),
    /// All of them.
    Choices(Recorded),
}

/// The choices of a run that differ from the static rule's, and what they were made for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    fingerprint: String,
    adapter: String,
    backend: String,
    driver: String,
    engine: String,
    /// Variants by the kernels' keys, in hexadecimal digits.
    variants: BTreeMap<String, usize>,
}

impl Tuning {
    /// A run's choices on an adapter; nothing where all are the static rule's.
    pub fn of(choices: &Choices, adapter: &Adapter) -> Option<Self> {
        (!choices.is_empty()).then(|| {
            Self::Choices(Recorded {
                fingerprint: format!("{:016x}", choices.fingerprint()),
                adapter: adapter.name.clone(),
                backend: adapter.backend.clone(),
                driver: adapter.driver.clone(),
                engine: ENGINE.to_owned(),
                variants: choices.iter().map(|(key, variant)| (format!("{key:016x}"), variant)).collect(),
            })
        })
    }

    /// A number in hexadecimal digits that differs where the choices do.
    pub fn fingerprint(&self) -> &str {
        match self {
            Self::Fingerprint(fingerprint) | Self::Choices(Recorded { fingerprint, .. }) => fingerprint,
        }
    }
}

impl Recorded {
    /// The choices, if they were made for this adapter, its driver and this engine.
    pub(super) fn choices(&self, adapter: &Adapter) -> Option<Choices> {
        let Self { adapter: name, backend, driver, engine, variants, .. } = self;
        let same = (name, backend, driver) == (&adapter.name, &adapter.backend, &adapter.driver) && engine == ENGINE;
        same.then(|| super::choices(variants.iter().map(|(key, &variant)| (key, variant))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter() -> Adapter {
        Adapter { name: "GPU (X) 9".to_owned(), backend: "Vulkan".to_owned(), driver: "some 1.2".to_owned() }
    }

    #[test]
    fn a_run_goes_on_with_its_choices_on_the_same_adapter_alone() {
        let mut choices = Choices::default();
        assert_eq!(Tuning::of(&choices, &adapter()), None);
        choices.choose(7, 1);
        choices.choose(u64::MAX, 2);
        let tuning = Tuning::of(&choices, &adapter()).expect("there are some");
        let text = toml::to_string(&BTreeMap::from([("tuning", &tuning)])).expect("written");
        let read: BTreeMap<String, Tuning> = toml::from_str(&text).expect("read");
        assert_eq!(read["tuning"], tuning, "{text}");
        assert_eq!(tuning.fingerprint(), format!("{:016x}", choices.fingerprint()));
        let Tuning::Choices(recorded) = tuning else { panic!("all of them") };
        assert_eq!(recorded.choices(&adapter()), Some(choices));
        assert_eq!(recorded.choices(&Adapter { driver: "some 1.3".to_owned(), ..adapter() }), None);
        assert_eq!(Recorded { engine: "0.0.1".to_owned(), ..recorded }.choices(&adapter()), None);
        let old: BTreeMap<String, Tuning> = toml::from_str("tuning = \"0123\"").expect("of an earlier version");
        assert_eq!(old["tuning"], Tuning::Fingerprint("0123".to_owned()));
    }
}
