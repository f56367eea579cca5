//! Matrix products.

use tensor::kernels::gemm::Gemm;

use super::Case;

const BASE: Gemm = Gemm {
    members: 1,
    a_members: 1,
    rows: 16,
    columns: 100,
    inner: 64,
    transpose_a: false,
    transpose_b: false,
    sum_members: false,
    bias: false,
};

/// Of these, in a quick check: a linear layer and its gradients, and sizes around the edges of a tile.
const QUICK: [&str; 6] =
    ["logits_of_members", "grad_input_summed", "grad_weight", "grad_input_odd", "grad_weight_odd", "pixels_grad_input"];

/// The linear layer of a classifier, its gradients, and sizes around the edges of a tile.
pub fn cases() -> Vec<Case> {
    [
        ("logits", Gemm { columns: 10, bias: true, ..BASE }),
        ("logits_of_members", Gemm { members: 3, a_members: 3, bias: true, ..BASE }),
        ("logits_fanned_out", Gemm { members: 3, columns: 3, bias: true, ..BASE }),
        ("grad_input", Gemm { members: 2, a_members: 2, columns: 64, inner: 100, transpose_b: true, ..BASE }),
        ("grad_input_odd", Gemm { rows: 5, columns: 17, inner: 10, transpose_b: true, ..BASE }),
        (
            "grad_input_summed",
            Gemm { members: 3, a_members: 3, columns: 64, inner: 10, transpose_b: true, sum_members: true, ..BASE },
        ),
        ("grad_weight", Gemm { members: 2, rows: 64, columns: 10, inner: 16, transpose_a: true, ..BASE }),
        ("grad_weight_odd", Gemm { rows: 3, columns: 5, inner: 11, transpose_a: true, ..BASE }),
        ("both_transposed", Gemm { rows: 8, columns: 12, inner: 133, transpose_a: true, transpose_b: true, ..BASE }),
        ("outer", Gemm { rows: 11, columns: 7, inner: 1, ..BASE }),
        ("row", Gemm { rows: 1, columns: 1, inner: 17, bias: true, sum_members: true, members: 2, ..BASE }),
        // A 1x1 convolution of 38 channels, and its gradients.
        ("pixels", Gemm { members: 3, rows: 65, columns: 24, inner: 38, ..BASE }),
        (
            "pixels_grad_input",
            Gemm {
                members: 3,
                a_members: 3,
                rows: 65,
                columns: 38,
                inner: 24,
                transpose_b: true,
                sum_members: true,
                ..BASE
            },
        ),
        ("pixels_grad_weight", Gemm { members: 3, rows: 38, columns: 24, inner: 65, transpose_a: true, ..BASE }),
        ("square", Gemm { rows: 68, columns: 36, inner: 20, ..BASE }),
    ]
    .into_iter()
    .map(|(name, kernel)| {
        let case = Case::new(format!("gemm/{name}"), kernel, kernel.inner * kernel.members);
        case.quick(QUICK.contains(&name))
    })
    .collect()
}
