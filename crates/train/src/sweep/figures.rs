//! The paper's figures, and those of the runs beside them.

use std::path::Path;

use serde::Deserialize;

use crate::report::{Run, Spread};
use crate::sweep::plan::Plan;

/// Quantity of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// Top-1 error of branch 0, per cent.
    Error,
    /// Mean of the branches' top-1 errors and their standard deviation.
    Branches,
    /// Top-1 error of the method's ensemble.
    Ensemble,
    /// Top-5 error of branch 0.
    Top5,
    /// Mean of the branches' top-5 errors and their standard deviation.
    BranchesTop5,
    /// 10^8 floating-point operations of an image in training.
    TrCost,
    /// The same, deployed.
    TeCost,
    /// The same of the whole ensemble, deployed.
    EnsembleTeCost,
    /// Millions of parameters, deployed.
    Params,
}

impl Quantity {
    fn name(self) -> &'static str {
        match self {
            Self::Error => "top-1 error",
            Self::Branches => "top-1 error, over branches",
            Self::Ensemble => "top-1 error, ensemble",
            Self::Top5 => "top-5 error",
            Self::BranchesTop5 => "top-5 error, over branches",
            Self::TrCost => "TrCost",
            Self::TeCost => "TeCost",
            Self::EnsembleTeCost => "TeCost, ensemble",
            Self::Params => "parameters, millions",
        }
    }

    /// The figure of runs that differ in their seed only, after their last epoch; nothing of runs that are not
    /// complete.
    fn of(self, runs: &[Run]) -> Option<String> {
        let first = runs.first()?;
        let last = |figure: &dyn Fn(&Run) -> Option<f64>| Spread::of(runs.iter().filter_map(figure)).map(|s| s.text(2));
        let over = |pick: fn(&crate::report::Row) -> &[f64]| {
            let spreads: Vec<Spread> =
                runs.iter().filter_map(|run| Spread::of(pick(run.last()?).iter().copied())).collect();
            let mean = Spread::of(spreads.iter().map(|spread| spread.mean))?;
            let deviation = Spread::of(spreads.iter().map(|spread| spread.deviation))?;
            Some(format!("{:.2} ± {:.2}", mean.mean, deviation.mean))
        };
        let cost = |macs: nets::Macs| Some(format!("{:.2}", macs.flops() as f64 / 1e8));
        match self {
            Self::Error => last(&|run| run.last()?.top1_error.first().copied()),
            Self::Top5 => last(&|run| run.last()?.top5_error.first().copied()),
            Self::Ensemble => last(&Run::ensemble_error),
            Self::Branches => over(|row| &row.top1_error),
            Self::BranchesTop5 => over(|row| &row.top5_error),
            Self::TrCost => cost(first.cost.training),
            Self::TeCost => cost(first.cost.deployed),
            Self::EnsembleTeCost => cost(nets::Macs(first.cost.training.0 * first.snapshots() as u64)),
            Self::Params => Some(format!("{:.2}", first.cost.deployed_parameters as f64 / 1e6)),
        }
    }
}

/// Directory of a run of a sweep.
pub fn directory(plan: &Plan, name: &str) -> std::path::PathBuf {
    plan.out.join(name)
}

/// Rows of what, the paper's figure and ours, in the order of the file. What was not run is empty.
pub fn compare(plan: &Plan) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut kinds: Vec<&str> = Vec::new();
    for run in plan.runs.iter().filter(|run| !run.paper.is_empty()) {
        if kinds.contains(&run.kind.as_str()) {
            continue;
        }
        kinds.push(&run.kind);
        let seeds = plan.runs.iter().filter(|other| other.kind == run.kind);
        let complete = |path: &Path| Run::read(path).ok().filter(Run::is_complete);
        let found: Vec<Run> = seeds.filter_map(|other| complete(&directory(plan, &other.name))).collect();
        for (quantity, paper) in &run.paper {
            let ours = quantity.of(&found).unwrap_or_default();
            rows.push(vec![run.kind.clone(), quantity.name().to_owned(), paper.clone(), ours]);
        }
    }
    rows
}
