//! Checks that ranks do the same: they must have the same program, options and data to begin, and the same parameters
//! later.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};

use anyhow::{Context, Result};
use data::{Dataset, Pictures};
use nets::Model;
use tensor::{Bank, Device};

use crate::failure::Agreed;
use crate::options::args::TrainArgs;
use crate::options::config::{Config, may_differ_between_ranks};
use crate::ranks::Ranks;

/// Facts about a rank's options, program or data, by name.
type Facts = BTreeMap<String, String>;

/// The most that parameters of a rank may have drifted from rank 0's where their devices round differently, of the root
/// of their mean square, from one comparison to the next.
const MOST_DRIFT: f64 = 1e-3;

/// A number that differs where the bytes do, for processes of one program.
fn fingerprint(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// Makes sure that all ranks have the same options and the same program.
///
/// # Errors
/// When one has not, naming the rank and the difference, or the program's file cannot be read.
pub fn check_options(ranks: &Ranks, config: &Config, args: &TrainArgs) -> Result<()> {
    if ranks.is_alone() {
        return Ok(());
    }
    let facts = ranks.together(facts(config, args))?;
    check(ranks, &facts, "start all ranks with the same program and options")
}

/// Makes sure that all ranks have the same data.
///
/// # Errors
/// When one has not, naming the rank and the difference.
pub fn check_data(ranks: &Ranks, dataset: &Dataset<Pictures>, validation: Option<&Pictures>) -> Result<()> {
    if ranks.is_alone() {
        return Ok(());
    }
    check(ranks, &data_facts(dataset, validation), "all ranks need the same data")
}

/// Facts about the options and the program.
///
/// # Errors
/// When the program's file cannot be read.
fn facts(config: &Config, args: &TrainArgs) -> Result<Facts> {
    let options = toml::Table::try_from(config)?;
    let mut facts: Facts = options
        .into_iter()
        .filter(|(key, _)| !may_differ_between_ranks(key))
        .map(|(key, value)| (key, value.to_string()))
        .collect();
    facts.insert("stop_after".to_owned(), args.stop_after.map_or_else(|| "not set".to_owned(), |n| n.to_string()));
    facts.insert("checks".to_owned(), args.checks.to_string());
    let program = env::current_exe().and_then(fs::read).context("cannot read this program's own file")?;
    facts.insert(PROGRAM.to_owned(), format!("{:016x}", fingerprint(&program)));
    for (name, path) in [("the teacher's file", &config.teacher)] {
        if let Some(path) = path {
            let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            facts.insert(name.to_owned(), format!("{:016x}", fingerprint(&bytes)));
        }
    }
    Ok(facts)
}

/// The fact that is no option.
const PROGRAM: &str = "the program";

/// Facts about the data.
fn data_facts(dataset: &Dataset<Pictures>, validation: Option<&Pictures>) -> Facts {
    let splits =
        [("training images", Some(&dataset.train)), ("test images", Some(&dataset.test)), ("held out", validation)];
    let mut facts: Facts =
        splits.into_iter().filter_map(|(name, pictures)| Some((name.to_owned(), describe(pictures?)))).collect();
    facts.insert("classes".to_owned(), dataset.classes.join(", "));
    facts
}

/// A split in a few words that differ where it does. Of files that are decoded later, their classes and number.
fn describe(pictures: &Pictures) -> String {
    let mut hasher = DefaultHasher::new();
    pictures.labels().hash(&mut hasher);
    if let Pictures::Resident(images) | Pictures::Memory(images) = pictures {
        images.pixels.hash(&mut hasher);
    }
    let (count, size) = (pictures.len(), pictures.size());
    format!("{count} of {size}x{size} ({:08x})", hasher.finish() as u32)
}

/// Goes on if all ranks have the same facts.
///
/// # Errors
/// When one has not, naming the rank and the difference.
fn check(ranks: &Ranks, own: &Facts, what_to_do: &str) -> Result<()> {
    match difference(&ranks.gather(own)?) {
        None => Ok(()),
        Some(difference) => Err(Agreed { sentence: format!("{difference}: {what_to_do}"), usage: true }.into()),
    }
}

/// The first difference of a rank from rank 0.
fn difference(all: &[Facts]) -> Option<String> {
    let (first, others) = all.split_first()?;
    others.iter().enumerate().find_map(|(index, other)| {
        let key = first.keys().chain(other.keys()).find(|key| first.get(*key) != other.get(*key))?;
        let rank = index + 1;
        if key == PROGRAM {
            return Some(format!("rank {rank} runs another build of this program than rank 0"));
        }
        let value = |facts: &Facts| facts.get(key).cloned().unwrap_or_else(|| "not set".to_owned());
        Some(format!("rank {rank} has {key} = {}, and rank 0 has {}", value(other), value(first)))
    })
}

/// The state that a step changes and all ranks have in common.
pub fn banks(model: &Model) -> [&Bank; 3] {
    let params = model.params();
    [params.values(), params.velocities(), params.running()]
}

/// Gives all ranks the banks of rank 0.
///
/// # Errors
/// When a rank cannot be reached any more, or the device fails.
pub fn share_banks(ranks: &Ranks, device: &Device, banks: [&Bank; 3]) -> Result<()> {
    for bank in banks {
        let words = ranks.words_of_root(&bank.read(device)?)?;
        bank.write(device, 0, &words)?;
    }
    Ok(())
}

/// The first rank whose banks are not those of the others, if there is one. Where the ranks' devices round differently
/// (`mixed`), they take rank 0's banks if theirs are close to them.
///
/// # Errors
/// When a rank cannot be reached any more, or the device fails.
pub fn odd_rank(ranks: &Ranks, device: &Device, banks: [&Bank; 3], mixed: bool) -> Result<Option<usize>> {
    match mixed {
        _ if ranks.is_alone() => Ok(None),
        true => take_roots(ranks, device, banks),
        false => other_than_most(ranks, device, banks),
    }
}

/// The first rank whose banks are not those of most, if there is one.
///
/// # Errors
/// When a rank cannot be reached any more, or the device fails.
fn other_than_most(ranks: &Ranks, device: &Device, banks: [&Bank; 3]) -> Result<Option<usize>> {
    let mut own = DefaultHasher::new();
    for bank in banks {
        bank.read(device)?.hash(&mut own);
    }
    Ok(odd_one(&ranks.gather(&own.finish())?))
}

/// Takes over rank 0's banks, and returns the first rank whose own were not close to them, if there is one.
///
/// # Errors
/// When a rank cannot be reached any more, or the device fails.
fn take_roots(ranks: &Ranks, device: &Device, banks: [&Bank; 3]) -> Result<Option<usize>> {
    let mut close = true;
    for bank in banks {
        let own = bank.read(device)?;
        let words = ranks.words_of_root(&own)?;
        close &= distance(&own, &words) <= MOST_DRIFT;
        bank.write(device, 0, &words)?;
    }
    Ok(ranks.gather(&close)?.iter().position(|close| !close))
}

/// The largest difference of floats, relative to the root of the mean square of those expected.
fn distance(own: &[u32], expected: &[u32]) -> f64 {
    let float = |word: &u32| f64::from(f32::from_bits(*word));
    let scale = (expected.iter().map(|word| float(word).powi(2)).sum::<f64>() / expected.len().max(1) as f64).sqrt();
    // A difference that is no number is no small one.
    let size = |x: f64| if x.is_nan() { f64::INFINITY } else { x.abs() };
    let largest = own.iter().zip(expected).map(|(a, b)| size(float(a) - float(b))).fold(0.0, f64::max);
    if own == expected { 0.0 } else { largest / scale }
}

/// The rank whose number is not that of most, if there is one; of two, it is not rank 0.
fn odd_one(numbers: &[u64]) -> Option<usize> {
    let count = |number: u64| numbers.iter().filter(|&&other| other == number).count();
    let usual = numbers.iter().copied().rev().max_by_key(|&number| count(number))?;
    numbers.iter().position(|&number| number != usual)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier, Mutex};
    use std::thread;
    use std::time::Duration;

    use dist::{Communicator, Pending};

    use super::*;

    /// Threads that stand for ranks.
    #[derive(Debug)]
    struct Threads {
        rank: usize,
        blocks: Arc<(Mutex<Vec<Vec<u8>>>, Barrier)>,
    }

    impl Communicator for Threads {
        fn rank(&self) -> usize {
            self.rank
        }

        fn size(&self) -> usize {
            self.blocks.0.lock().expect("no panic").len()
        }

        fn host(&self) -> &str {
            "here"
        }

        fn broadcast(&self, data: Vec<u8>) -> dist::Result<Vec<u8>> {
            Ok(self.all_gather(data)?.swap_remove(0))
        }

        fn all_gather(&self, block: Vec<u8>) -> dist::Result<Vec<Vec<u8>>> {
            self.blocks.0.lock().expect("no panic")[self.rank] = block;
            self.blocks.1.wait();
            let all = self.blocks.0.lock().expect("no panic").clone();
            self.blocks.1.wait();
            Ok(all)
        }

        fn all_reduce(&self, _: Vec<f32>) -> dist::Result<Vec<f32>> {
            unreachable!("nothing is summed here")
        }

        fn start_all_reduce(&self, _: Vec<f32>) -> dist::Result<Pending> {
            unreachable!("nothing is summed here")
        }

        fn set_time_limit(&self, _: Option<Duration>) {}

        fn abort(&self, status: i32) -> ! {
            panic!("aborted with {status}")
        }
    }

    /// Runs `work` on each of `count` ranks.
    fn on_ranks<T: Send>(count: usize, work: impl Fn(Ranks) -> T + Sync) -> Vec<T> {
        let blocks = Arc::new((Mutex::new(vec![Vec::new(); count]), Barrier::new(count)));
        let run = |rank| work(Ranks::over(Arc::new(Threads { rank, blocks: Arc::clone(&blocks) })).expect("connected"));
        let run = &run;
        thread::scope(|scope| {
            let threads: Vec<_> = (0..count).map(|rank| scope.spawn(move || run(rank))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        })
    }

    #[test]
    fn a_rank_that_drifts_is_found_or_brought_back() {
        let begin: Vec<f32> = (0..100).map(|i| 0.1 + i as f32).collect();
        // Rank 1's parameters, by how much the 8th of them differs.
        let compare = |change: f32, close: bool| {
            on_ranks(3, |ranks| {
                let device = Device::cpu();
                let mut own = begin.clone();
                own[7] += if ranks.rank() == 1 { change } else { 0.0 };
                let words: Vec<u32> = own.iter().map(|value| value.to_bits()).collect();
                let bank = |words: &[u32]| Bank::with_data("bank", &device, words).expect("memory");
                let banks = [bank(&words), bank(&[0; 64]), bank(&[1; 64])];
                let all = [&banks[0], &banks[1], &banks[2]];
                let odd = if close { take_roots(&ranks, &device, all) } else { other_than_most(&ranks, &device, all) };
                let after = banks[0].read(&device).expect("readable");
                (odd.expect("compared"), f32::from_bits(after[7]).to_bits() == begin[7].to_bits())
            })
        };
        assert_eq!(compare(0.0, false), [(None, true); 3]);
        assert_eq!(compare(1e-6, false), [(Some(1), true), (Some(1), false), (Some(1), true)], "one bit is enough");
        assert_eq!(compare(1e-6, true), [(None, true); 3], "what is close takes rank 0's");
        assert_eq!(compare(1.0, true), [(Some(1), true); 3]);
        assert_eq!(compare(f32::NAN, true), [(Some(1), true); 3]);
    }

    #[test]
    fn the_first_difference_is_named() {
        let facts =
            |pairs: &[(&str, &str)]| -> Facts { pairs.iter().map(|&(a, b)| (a.to_owned(), b.to_owned())).collect() };
        let (a, b) = (facts(&[("lr", "0.1"), ("seed", "0")]), facts(&[("lr", "0.2"), ("seed", "0")]));
        assert_eq!(difference(&[a.clone(), a.clone()]), None);
        assert_eq!(difference(&[a.clone(), a.clone(), b]).as_deref(), Some("rank 2 has lr = 0.2, and rank 0 has 0.1"));
        let more = facts(&[("init", "x"), ("lr", "0.1"), ("seed", "0")]);
        assert_eq!(difference(&[a, more]).as_deref(), Some("rank 1 has init = x, and rank 0 has not set"));
        let program = |hash| facts(&[(PROGRAM, hash)]);
        let sentence = difference(&[program("1"), program("2")]).expect("they differ");
        assert_eq!(sentence, "rank 1 runs another build of this program than rank 0");
    }

    #[test]
    fn the_odd_one_is_not_of_the_many() {
        assert_eq!(odd_one(&[5, 5, 5]), None);
        assert_eq!(odd_one(&[5, 7, 5]), Some(1));
        assert_eq!(odd_one(&[7, 5, 5]), Some(0));
        assert_eq!(odd_one(&[5, 7]), Some(1));
    }
}
