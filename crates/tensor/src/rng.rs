//! Counter-based random numbers: a value is a pure function of its key, so that nothing depends on the order
//! in which threads, devices or resumed runs ask for it.

/// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): a bijection that mixes 64 bits.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A stream of random numbers determined by a key.
#[derive(Debug, Clone)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// The stream of `key`; keys such as `[seed, epoch, index]` give unrelated streams.
    pub fn new(key: &[u64]) -> Self {
        let state = key.iter().fold(0x9e37_79b9_7f4a_7c15, |state: u64, &part| {
            mix(state ^ mix(part.wrapping_add(0x9e37_79b9_7f4a_7c15)))
        });
        Self { state }
    }

    /// The stream of a name (FNV-1a of its bytes) under `key`.
    pub fn named(name: &str, key: &[u64]) -> Self {
        let hash = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        let mut full = vec![hash];
        full.extend_from_slice(key);
        Self::new(&full)
    }

    /// 64 uniform bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// Uniform in `[0, 1)`, with 53 bits.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in `0..n` (by multiplication; the bias is below `n / 2^64`). `n` must not be 0.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.bits()) * n as u128) >> 64) as usize
    }

    /// Standard normal (Box–Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// A uniform permutation of `0..n` (Fisher–Yates).
    pub fn permutation(&mut self, n: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n as u32).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::Rng;

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut rng = Rng::new(&[1, 2, 3]);
        let n = 100_000;
        let uniform: f64 = (0..n).map(|_| rng.uniform()).sum::<f64>() / f64::from(n);
        assert!((uniform - 0.5).abs() < 5e-3, "{uniform}");
        let normals: Vec<f64> = (0..n).map(|_| rng.normal()).collect();
        let mean = normals.iter().sum::<f64>() / f64::from(n);
        let var = normals.iter().map(|x| x * x).sum::<f64>() / f64::from(n);
        assert!(mean.abs() < 0.02 && (var - 1.0).abs() < 0.02, "{mean} {var}");
    }

    #[test]
    fn keys_and_names_separate_streams_and_permutations_are_complete() {
        assert_ne!(Rng::new(&[0, 1]).bits(), Rng::new(&[1, 0]).bits());
        assert_ne!(Rng::named("a", &[0]).bits(), Rng::named("b", &[0]).bits());
        let mut order = Rng::new(&[7]).permutation(1000);
        assert_ne!(order, (0..1000).collect::<Vec<u32>>());
        order.sort_unstable();
        assert_eq!(order, (0..1000).collect::<Vec<u32>>());
    }
}
