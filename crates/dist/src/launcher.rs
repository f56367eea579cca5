//! Environment variables in which launchers describe a launch to the processes that they start.

/// Variables that hold the number of processes: Open MPI; MPICH, Intel MPI, MS-MPI and others; MPICH on this host;
/// MVAPICH; a step of Slurm; Flux. SLURM_NTASKS is also set in a batch script, which is not one of several tasks;
/// therefore the step's number counts.
const SIZES: [&str; 6] = [
    "OMPI_COMM_WORLD_SIZE",
    "PMI_SIZE",
    "MPI_LOCALNRANKS",
    "MV2_COMM_WORLD_SIZE",
    "SLURM_STEP_NUM_TASKS",
    "FLUX_JOB_SIZE",
];

/// Variables that hold the number of this process, from 0: PMIx, which gives no size; a task of Slurm.
const RANKS: [&str; 2] = ["PMIX_RANK", "SLURM_PROCID"];

/// A launch, as the launcher describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Launch {
    /// Number of processes started together, at least.
    pub processes: usize,
    /// The variable that says so.
    pub variable: &'static str,
}

/// The launch that this process belongs to, if a launcher started it; `lookup` gives the value of an environment
/// variable.
pub(crate) fn launch(lookup: impl Fn(&str) -> Option<String>) -> Option<Launch> {
    let number = |variable| lookup(variable)?.trim().parse::<usize>().ok();
    let sizes = SIZES.iter().filter_map(|&variable| Some(Launch { processes: number(variable)?, variable }));
    let ranks = RANKS.iter().filter_map(|&variable| Some(Launch { processes: number(variable)? + 1, variable }));
    sizes.chain(ranks).rev().max_by_key(|launch| launch.processes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(variables: &[(&str, &str)]) -> Option<(usize, &'static str)> {
        let lookup = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        launch(lookup).map(|launch| (launch.processes, launch.variable))
    }

    #[test]
    fn launchers_are_known_by_their_variables() {
        assert_eq!(found(&[]), None);
        assert_eq!(found(&[("PATH", "/bin"), ("SLURM_NTASKS", "4")]), None);
        assert_eq!(
            found(&[("OMPI_COMM_WORLD_SIZE", "4"), ("OMPI_COMM_WORLD_RANK", "0"), ("PMIX_RANK", "0")]),
            Some((4, "OMPI_COMM_WORLD_SIZE"))
        );
        assert_eq!(found(&[("OMPI_COMM_WORLD_SIZE", "1")]), Some((1, "OMPI_COMM_WORLD_SIZE")));
        assert_eq!(found(&[("PMI_RANK", "1"), ("PMI_SIZE", "2")]), Some((2, "PMI_SIZE")));
        assert_eq!(found(&[("MPI_LOCALNRANKS", "8")]), Some((8, "MPI_LOCALNRANKS")));
    }

    #[test]
    fn a_batch_script_of_slurm_is_one_process_and_a_task_of_a_step_one_of_several() {
        assert_eq!(found(&[("SLURM_NTASKS", "4"), ("SLURM_PROCID", "0")]), Some((1, "SLURM_PROCID")));
        let step = [("SLURM_NTASKS", "4"), ("SLURM_PROCID", "0"), ("SLURM_STEP_NUM_TASKS", "4")];
        assert_eq!(found(&step), Some((4, "SLURM_STEP_NUM_TASKS")));
    }

    #[test]
    fn a_rank_tells_how_many_there_are_at_least() {
        assert_eq!(found(&[("PMIX_RANK", "2")]), Some((3, "PMIX_RANK")));
    }

    #[test]
    fn what_is_no_number_tells_nothing() {
        assert_eq!(found(&[("PMI_SIZE", "many"), ("PMIX_RANK", "")]), None);
        assert_eq!(found(&[("PMI_SIZE", " 2 ")]), Some((2, "PMI_SIZE")));
    }
}
