//! The fused loss of the crate `one`: one case per entry point and switch, on the networks' shapes, with rows that
//! fit into workgroup memory and rows that do not, ragged batches, ties, and logits of ±1e4.

use one::kernels::{DistillationLoss, Teacher};

use super::{Case, Fill};

/// A step of 5 samples, all valid, at temperature 3.
fn kernel(branches: usize, classes: usize, teacher: Teacher) -> DistillationLoss {
    DistillationLoss { branches, batch: 5, classes, temperature: 3.0, teacher, distill: true, gradient: true }
}

fn hyper(distillation: f32, valid: f32, cross_entropy: f32) -> Fill {
    Fill::Words([distillation, valid, cross_entropy].map(f32::to_bits).to_vec())
}

fn case(what: &str, kernel: DistillationLoss, logits: Fill) -> Case {
    let (m, k) = (kernel.branches, kernel.classes);
    let largest = match logits {
        Fill::Normal(mean, std) => f64::from(mean + 3.0 * std),
        Fill::Uniform(low, high) => f64::from(high.max(-low)),
        Fill::Below(_) | Fill::Words(_) => 0.0,
    };
    let t = if kernel.distill { f64::from(kernel.temperature) } else { 0.0 };
    let mut case = Case::new(format!("distillation_loss/{what}_m{m}_k{k}"), kernel, k)
        .input(0, logits)
        .input(1, Fill::Below(k as u32))
        .input(2, hyper(0.7, 5.0, 0.6));
    // WGSL lets exp(x) err by 3 + 2 |x| ulp. Weighted by the probabilities, |x| is at most their entropy, so a sum of
    // exponentials errs by 3 + 2 ln K ulp, its logarithm by as much plus 4 of its own; the KL term multiplies by T^2.
    // The teacher's logits are sums of M rounded products, so each errs by up to (M + 1)/2 ulp of the largest logit.
    case.tolerance += f64::from(f32::EPSILON)
        * ((1.0 + t * t) * (7.0 + 2.0 * (k as f64).ln()) + (1.0 + t) * (m as f64 + 1.0) / 2.0 * largest);
    case
}

/// The cases.
pub fn cases() -> Vec<Case> {
    use Teacher::{Gated, Given, Mean, None, Peers};
    let normal = Fill::Normal(0.3, 2.5);
    let plain = |kernel| DistillationLoss { distill: false, ..kernel };
    let evaluation = |kernel| DistillationLoss { gradient: false, ..kernel };
    let integers = |n: usize| Fill::Words((0..n).map(|i| ((i * 7 % 2) as f32).to_bits()).collect());
    vec![
        case("single", kernel(1, 10, None), normal.clone()).quick(true),
        case("single_evaluation", evaluation(kernel(1, 10, None)), normal.clone()).quick(true),
        case("gated", kernel(3, 10, Gated), normal.clone()).quick(true),
        case("gated_ragged", kernel(3, 10, Gated), normal.clone()).input(2, hyper(1.0, 3.0, 1.0)),
        case("gated", kernel(3, 100, Gated), normal.clone()),
        case("gated_evaluation", evaluation(kernel(3, 100, Gated)), normal.clone()),
        case("gated_plain", plain(kernel(5, 3, Gated)), normal.clone()),
        case("gated", kernel(1, 10, Gated), normal.clone()),
        case("gated", kernel(8, 37, Gated), normal.clone()).quick(true),
        case("gated_unstaged", kernel(8, 500, Gated), normal.clone()).quick(true),
        case("gated", kernel(2, 1000, Gated), normal.clone()),
        case("gated_large_logits", kernel(3, 10, Gated), Fill::Uniform(-1e4, 1e4)),
        case("mean", kernel(3, 100, Mean), normal.clone()).quick(true),
        case("mean_plain_evaluation", plain(evaluation(kernel(5, 3, Mean))), normal.clone()),
        // Integers and a power of two of branches: the mean is exact, so ties are ties on every device.
        case("mean_ties", kernel(2, 11, Mean), integers(2 * 5 * 11)),
        case("independent", kernel(3, 100, None), normal.clone()),
        case("peers", kernel(2, 10, Peers), normal.clone()),
        case("peers_ragged", kernel(3, 100, Peers), normal.clone()).input(2, hyper(1.0, 3.0, 1.0)).quick(true),
        case("peers_unstaged", kernel(8, 500, Peers), normal.clone()),
        case("peers_evaluation", evaluation(kernel(4, 5, Peers)), normal.clone()),
        case("given", kernel(1, 10, Given), normal.clone()).input(3, Fill::Normal(0.1, 3.0)).quick(true),
        case("given", kernel(2, 100, Given), normal.clone()).input(3, Fill::Normal(0.1, 3.0)),
        case("given_unstaged", kernel(1, 5000, Given), normal),
    ]
}
