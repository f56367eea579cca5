//! Batch normalisation, forward and backward.

use tensor::kernels::batch_norm::{
    Activation, BatchNormApply, BatchNormFinalize, BatchNormGradInput, BatchNormGradPartials, BatchNormInference,
    BatchNormPartials, BatchNormSmall, BatchNormSmallGrad, Chunks, Residual, Upstream,
};

use super::{Case, Fill};

/// Members, rows and channels: those of the networks at a small batch, channels that are no multiple of four, columns
/// that leave threads idle, rows that leave a ragged last chunk or block, several tiles per row, and one of each.
const SHAPES: [[usize; 3]; 7] =
    [[1, 512, 16], [3, 128, 64], [2, 300, 12], [2, 1030, 5], [1, 11, 324], [1, 1, 1], [3, 37, 38]];

/// Of these, in a quick check: branches of a network, and channels that are no multiple of four.
const QUICK: [[usize; 3]; 2] = [[3, 128, 64], [2, 1030, 5]];

/// A shape as it stands in a case's name.
fn named(shape: [usize; 3]) -> String {
    shape.map(|extent| extent.to_string()).join("x")
}

/// Inverse deviations and variances must be positive.
fn positive() -> Fill {
    Fill::Uniform(0.5, 1.5)
}

/// All cases.
pub fn cases() -> Vec<Case> {
    [statistics(), apply(), gradient(), small()].concat()
}

/// Means and deviations.
fn statistics() -> Vec<Case> {
    let mut cases = Vec::new();
    for shape in SHAPES {
        let ([members, rows, channels], quick, shape) = (shape, QUICK.contains(&shape), named(shape));
        let chunks = Chunks::new(rows, channels);
        let partials = BatchNormPartials { members, channels, chunks };
        cases.push(
            // A large mean: its square would swallow the deviations.
            Case::new(format!("batch_norm_stats/{shape}"), partials, rows)
                .input(0, Fill::Normal(50.0, 1.0))
                .quick(quick),
        );
        for affine in [false, true] {
            let finalize = BatchNormFinalize { members, channels, chunks, eps: 1e-5, momentum: 0.1, affine };
            let name = format!("batch_norm_stats_finalize/{shape} affine={affine}");
            // Sums of squares are positive.
            let rows_of_chunk = chunks.chunk.min(rows) as f32;
            cases.push(
                Case::new(name, finalize, rows)
                    .input(0, Fill::Uniform(0.2 * rows_of_chunk, 0.3 * rows_of_chunk))
                    .update(1, positive())
                    .quick(quick),
            );
        }
    }
    cases
}

/// The normalisation, in training and in inference.
fn apply() -> Vec<Case> {
    let mut cases = Vec::new();
    for (shape, residual, relu) in [
        ([1, 512, 16], Residual::None, true),
        ([3, 128, 64], Residual::Same, false),
        ([2, 300, 12], Residual::Shared, true),
        ([2, 1030, 5], Residual::Normalised, false),
        ([1, 11, 324], Residual::None, true),
        ([1, 1, 1], Residual::Same, false),
        ([3, 37, 38], Residual::Shared, true),
    ] {
        let [members, rows, channels] = shape;
        let name = format!("batch_norm_apply/training {} {residual:?} relu={relu}", named(shape));
        let apply = BatchNormApply { members, rows, channels, residual, relu };
        cases.push(Case::new(name, apply, 1).input(1, positive()).quick(QUICK.contains(&shape)));
    }
    for (shape, residual, relu) in [
        ([1, 512, 16], Residual::Shared, false),
        ([3, 128, 64], Residual::None, true),
        ([2, 300, 12], Residual::Same, false),
        ([2, 1030, 5], Residual::Shared, true),
        ([1, 11, 324], Residual::None, false),
        ([1, 1, 1], Residual::Same, true),
        ([3, 37, 38], Residual::Shared, false),
    ] {
        let [members, rows, channels] = shape;
        let name = format!("batch_norm_apply/inference {} {residual:?} relu={relu}", named(shape));
        let inference = BatchNormInference { members, rows, channels, residual, relu, eps: 1e-3 };
        cases.push(Case::new(name, inference, 1).input(2, positive()).quick(QUICK.contains(&shape)));
    }
    cases
}

/// The gradient, in two kernels.
fn gradient() -> Vec<Case> {
    let mut cases = Vec::new();
    for (shape, addend) in [
        ([1, 512, 16], false),
        ([3, 128, 64], false),
        ([2, 300, 12], true),
        ([2, 1030, 5], false),
        ([1, 11, 324], false),
        ([1, 1, 1], true),
        ([3, 37, 38], false),
    ] {
        let [members, rows, channels] = shape;
        let name = format!("batch_norm_grad_input/{} addend={addend}", named(shape));
        let input = BatchNormGradInput { members, rows, channels, addend };
        cases.push(Case::new(name, input, 1).quick(QUICK.contains(&shape)));
    }
    // Every activation, four channels at a time and one: those in a quick check, which takes all.
    for (shape, activation, quick) in [
        ([1, 512, 16], Activation::Relu, true),
        ([3, 128, 64], Activation::ReluOfSum, true),
        ([2, 300, 12], Activation::Linear, true),
        ([2, 1030, 5], Activation::Relu, true),
        ([1, 11, 324], Activation::ReluOfSum, false),
        ([1, 1, 1], Activation::Linear, false),
        ([3, 37, 38], Activation::Relu, false),
        ([2, 45, 7], Activation::Relu, false),
        ([2, 45, 3], Activation::ReluOfSum, false),
        ([2, 45, 8], Activation::Linear, false),
    ] {
        let [members, rows, channels] = shape;
        let chunks = Chunks::new(rows, channels);
        let upstream = Upstream::Whole;
        let first = BatchNormGradPartials { members, channels, chunks, activation, upstream };
        let name = format!("batch_norm_grad/{} {activation:?}", named(shape));
        cases.push(Case::new(name, first, rows).input(2, positive()).quick(quick));
    }
    // Behind a pooling, alone and beside other readers.
    for (activation, channels, area) in
        [(Activation::Relu, 5, 9), (Activation::ReluOfSum, 16, 64), (Activation::Relu, 8, 1)]
    {
        for upstream in [Upstream::Pooled { area }, Upstream::Both { area }] {
            let chunks = Chunks::new(7 * area, channels);
            let first = BatchNormGradPartials { members: 2, channels, chunks, activation, upstream };
            let name = format!("batch_norm_grad/2x7x{area}x{channels} {activation:?} {upstream:?}");
            cases.push(Case::new(name, first, 7 * area).input(2, positive()));
        }
    }
    cases
}

/// All in one kernel: a gate, and what leaves threads idle.
fn small() -> Vec<Case> {
    let mut cases = Vec::new();
    for (members, rows, channels) in [(1, 128, 3), (2, 1, 1), (3, 37, 38), (1, 1000, 16)] {
        let quick = [128, 37].contains(&rows);
        for relu in [false, true] {
            let quick = quick && relu;
            let name = format!("{members}x{rows}x{channels} relu={relu}");
            let forward = BatchNormSmall { members, rows, channels, relu, eps: 1e-5, momentum: 0.1 };
            let case = Case::new(format!("batch_norm_small/{name}"), forward, rows);
            cases.push(case.input(0, Fill::Normal(5.0, 1.0)).update(1, positive()).quick(quick));
            let backward = BatchNormSmallGrad { members, rows, channels, relu };
            let case = Case::new(format!("batch_norm_small_grad/{name}"), backward, rows);
            cases.push(case.input(2, positive()).quick(quick));
        }
    }
    cases
}
