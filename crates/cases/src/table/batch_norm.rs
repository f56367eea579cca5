//! Batch normalisation, forward and backward.

use tensor::kernels::batch_norm::{
    Activation, BatchNormApply, BatchNormFinalize, BatchNormGradInput, BatchNormGradPartials, BatchNormInference,
    BatchNormPartials, BatchNormSmall, BatchNormSmallGrad, Chunks, Residual, Upstream,
};

use super::{Case, Fill};

/// Members, rows and channels: those of the networks at a small batch, channels that are no multiple of four, columns
/// that leave threads idle, rows that leave a ragged last chunk or block, several tiles per row, and one of each.
const SHAPES: [(usize, usize, usize); 7] =
    [(1, 512, 16), (3, 128, 64), (2, 300, 12), (2, 1030, 5), (1, 11, 324), (1, 1, 1), (3, 37, 38)];

/// Of these, in a quick check: branches of a network, and channels that are no multiple of four.
const QUICK: [usize; 2] = [1, 3];

/// Inverse deviations and variances must be positive.
fn positive() -> Fill {
    Fill::Uniform(0.5, 1.5)
}

/// All cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (index, (members, rows, channels)) in SHAPES.into_iter().enumerate() {
        let quick = QUICK.contains(&index);
        let shape = format!("{members}x{rows}x{channels}");
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
    for (index, (members, rows, channels)) in SHAPES.into_iter().enumerate() {
        let shape = format!("{members}x{rows}x{channels}");
        let quick = QUICK.contains(&index);
        let residual = [Residual::None, Residual::Same, Residual::Shared, Residual::Normalised][index % 4];
        let relu = index % 2 == 0;
        let name = format!("{shape} {residual:?} relu={relu}");
        let apply = BatchNormApply { members, rows, channels, residual, relu };
        let case = Case::new(format!("batch_norm_apply/training {name}"), apply, 1);
        cases.push(case.input(1, positive()).quick(quick));
        let residual = [Residual::Shared, Residual::None, Residual::Same][index % 3];
        let relu = index % 2 == 1;
        let name = format!("{shape} {residual:?} relu={relu}");
        let inference = BatchNormInference { members, rows, channels, residual, relu, eps: 1e-3 };
        let case = Case::new(format!("batch_norm_apply/inference {name}"), inference, 1);
        cases.push(case.input(2, positive()).quick(quick));
        let activation = [Activation::Relu, Activation::ReluOfSum, Activation::Linear][index % 3];
        let first = BatchNormGradPartials {
            members,
            channels,
            chunks: Chunks::new(rows, channels),
            activation,
            upstream: Upstream::Whole,
        };
        let name = format!("batch_norm_grad/{shape} {activation:?}");
        // Each activation, four channels at a time and one.
        cases.push(Case::new(name, first, rows).input(2, positive()).quick(index < 4));
        let addend = index % 3 == 2;
        let third = BatchNormGradInput { members, rows, channels, addend };
        let case = Case::new(format!("batch_norm_grad_input/{shape} addend={addend}"), third, 1);
        cases.push(case.quick(quick));
    }
    // The remaining pairs of a vector width and an activation.
    for (activation, channels) in [(Activation::Relu, 7), (Activation::ReluOfSum, 3), (Activation::Linear, 8)] {
        let first = BatchNormGradPartials {
            members: 2,
            channels,
            chunks: Chunks::new(45, channels),
            activation,
            upstream: Upstream::Whole,
        };
        let name = format!("batch_norm_grad/2x45x{channels} {activation:?}");
        cases.push(Case::new(name, first, 45).input(2, positive()));
    }
    // In one kernel: a gate, and what leaves threads idle.
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
