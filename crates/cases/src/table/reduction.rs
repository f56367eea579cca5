//! Sums over members, rows and areas.

use tensor::kernels::global_average_pool::{GlobalAveragePool, GlobalAveragePoolGrad};
use tensor::kernels::sum_columns::AccumulateColumns;
use tensor::kernels::sum_members::SumMembers;
use tensor::kernels::sum_partials::{Sum, SumPartials};

use super::Case;

/// All cases.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new("sum_members/3x1028", SumMembers { members: 3, words: 1028 }, 3).quick(true),
        Case::new("sum_members/2x17", SumMembers { members: 2, words: 17 }, 2).quick(true),
        Case::new("sum_members/1x4", SumMembers { members: 1, words: 4 }, 1),
        Case::new("sum_columns/accumulate 16x9", AccumulateColumns { rows: 16, columns: 9 }, 16).quick(true),
        Case::new("sum_columns/accumulate 5x33", AccumulateColumns { rows: 5, columns: 33 }, 5).quick(true),
    ];
    for (members, batch, area, channels, addend) in
        [(3, 2, 64, 64, false), (1, 5, 49, 12, true), (2, 3, 6, 5, true), (1, 1, 1, 1, true)]
    {
        let shape = format!("{members}x{batch}x{area}x{channels}");
        let quick = [64, 6].contains(&area);
        let pool = GlobalAveragePool { members, batch, area, channels };
        cases.push(Case::new(format!("global_average_pool/{shape}"), pool, area).quick(quick));
        let grad = GlobalAveragePoolGrad { members, batch, area, channels, addend };
        let case = Case::new(format!("global_average_pool_grad/{shape} addend={addend}"), grad, 1);
        cases.push(case.quick(quick));
    }
    // Few and many parts, elements that do not come in fours, rows of several matrices, pairs, and several sums at
    // once.
    let [few, many, rows, odd_rows, pairs, odd_pairs] = [
        Sum::of(3, vec![1, 3, 3, 4, 8]),
        Sum::of(133, vec![2, 17]),
        Sum::of_rows(3, 16, 100),
        Sum::of_rows(2, 133, 3),
        Sum::of_pairs(67, 3, 12),
        Sum::of_pairs(5, 2, 7),
    ];
    for (name, sums) in [
        ("one", vec![Sum::of(1, vec![3])]),
        ("few", vec![few.clone()]),
        ("many", vec![many.clone()]),
        ("weights", vec![Sum::of(32, vec![1, 3, 3, 16, 16])]),
        ("rows", vec![rows.clone()]),
        ("odd rows", vec![odd_rows.clone()]),
        ("pairs", vec![pairs.clone()]),
        ("pairs and weights", vec![pairs.clone(), few.clone()]),
        ("odd pairs, weights and rows", vec![odd_pairs.clone(), many, rows.clone()]),
        ("rows, pairs and weights", vec![rows, pairs.clone(), few]),
        ("pairs twice and odd rows", vec![odd_pairs, pairs, odd_rows]),
    ] {
        // One to five outputs; parts that come in fours and that do not.
        let quick = ["weights", "pairs", "pairs and weights"].contains(&name) || name.contains("odd");
        let longest = sums.iter().map(|sum| sum.partials).max().unwrap_or(1);
        let mut sums = sums.into_iter().map(SumPartials::new);
        let mut kernel = sums.next().expect("one sum at least");
        assert!(sums.all(|other| kernel.join(&other)), "{name}: there is room");
        cases.push(Case::new(format!("sum_partials/{name}"), kernel, longest).quick(quick));
    }
    cases
}
