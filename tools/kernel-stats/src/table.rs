//! Printing, and the committed table that measurements are compared with.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::Measured;
use crate::measure::Row;

/// The columns of the printed and of the committed table after the kernel's name.
const COLUMNS: [&str; 18] = [
    "lanes", "VGPR", "SGPR", "spill", "scratch", "LDS", "sub/SIMD", "instr", "VALU", "SALU", "VMEM", "SMEM", "DS",
    "VOPD", "inv.thr.", "FMA", "hot%", "peak%",
];

fn cells(row: &Row) -> [String; COLUMNS.len()] {
    let numbers = [
        u64::from(row.lanes),
        row.vgprs,
        row.sgprs,
        row.spills,
        row.scratch,
        row.lds,
        row.subgroups,
        row.instructions,
        row.valu,
        row.salu,
        row.vmem,
        row.smem,
        row.ds,
        row.vopd,
        row.inverse_throughput,
        row.multiply_adds,
    ];
    let percentages = [row.hot_loop, row.of_peak];
    let mut cells = numbers.iter().map(u64::to_string).chain(percentages.iter().map(|value| format!("{value:.1}")));
    std::array::from_fn(|_| cells.next().unwrap_or_default())
}

/// Prints one GPU's table.
pub fn print(measured: &Measured) {
    println!("{} ({})", measured.gpu, measured.driver);
    let rows: Vec<_> = measured.rows.iter().map(cells).collect();
    let width = |i: usize| rows.iter().map(|row| row[i].len()).max().unwrap_or(0).max(COLUMNS[i].len());
    let widths: [usize; COLUMNS.len()] = std::array::from_fn(width);
    let line = |cells: &[String; COLUMNS.len()]| {
        cells.iter().zip(widths).fold(String::new(), |mut line, (cell, width)| {
            let _ = write!(line, "{cell:>width$}  ");
            line
        })
    };
    println!("{}kernel", line(&COLUMNS.map(str::to_owned)));
    for (row, cells) in measured.rows.iter().zip(&rows) {
        // If the weights differ from the compiler's, the percentage of the peak is an estimate.
        let mark = if (row.weights - 1.0).abs() > 0.02 { " (peak% estimated)" } else { "" };
        println!("{}{}{mark}", line(cells), row.kernel);
    }
    println!();
}

/// All measurements as JSON.
pub fn json(measured: &[Measured]) -> Result<String> {
    let gpus: Vec<_> = measured
        .iter()
        .map(|measured| serde_json::json!({ "gpu": measured.gpu, "driver": measured.driver, "kernels": measured.rows }))
        .collect();
    Ok(serde_json::to_string_pretty(&gpus)?)
}

/// Kernels with spilled registers, one sentence each.
pub fn spills(measured: &Measured) -> impl Iterator<Item = String> + '_ {
    let spilled = measured.rows.iter().filter(|row| row.spills + row.scratch > 0);
    spilled.map(|row| {
        format!(
            "{} on {}: {} registers spilled, {} bytes of scratch",
            row.kernel, measured.gpu, row.spills, row.scratch
        )
    })
}

/// The committed table: the figures of each kernel that must not become worse.
#[derive(Debug, Default, PartialEq)]
pub struct Table {
    /// The driver that the table was made with.
    drivers: BTreeMap<String, String>,
    /// Cells by GPU and kernel.
    rows: BTreeMap<(String, String), Vec<f64>>,
}

impl Table {
    /// The table of these measurements.
    pub fn of(measured: &[Measured]) -> Self {
        let mut table = Self::default();
        for measured in measured {
            table.drivers.insert(measured.gpu.clone(), measured.driver.clone());
            for row in &measured.rows {
                let cells = cells(row).iter().map(|cell| cell.parse().unwrap_or(f64::NAN)).collect();
                table.rows.insert((measured.gpu.clone(), row.kernel.clone()), cells);
            }
        }
        table
    }

    /// Writes the table.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut text = String::new();
        for (gpu, driver) in &self.drivers {
            let _ = writeln!(text, "# {gpu}\t{driver}");
        }
        let _ = writeln!(text, "GPU\t{}\tkernel", COLUMNS.join("\t"));
        for ((gpu, kernel), cells) in &self.rows {
            let cells: Vec<String> = cells.iter().map(f64::to_string).collect();
            let _ = writeln!(text, "{gpu}\t{}\t{kernel}", cells.join("\t"));
        }
        let beside = path.with_extension("tsv.new");
        let written = fs::write(&beside, text).and_then(|()| fs::rename(&beside, path));
        written.with_context(|| format!("{} cannot be written", path.display()))
    }

    /// Reads a table.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("{} cannot be read; --update writes it", path.display()))?;
        let mut table = Self::default();
        for (number, line) in text.lines().enumerate() {
            let mut fields = line.split('\t');
            let first = fields.next().unwrap_or_default();
            if let Some(gpu) = first.strip_prefix("# ") {
                table.drivers.insert(gpu.to_owned(), fields.next().unwrap_or_default().to_owned());
                continue;
            }
            let cells: Vec<&str> = fields.collect();
            if first == "GPU" {
                continue;
            }
            let (kernel, cells) = cells.split_last().unwrap_or((&"", &[]));
            let cells: Option<Vec<f64>> = cells.iter().map(|cell| cell.parse().ok()).collect();
            let cells = cells.filter(|cells| cells.len() == COLUMNS.len());
            let cells = cells.with_context(|| format!("{}:{}: not a row", path.display(), number + 1))?;
            table.rows.insert((first.to_owned(), (*kernel).to_owned()), cells);
        }
        Ok(table)
    }

    /// Regressions and, if `all` kernels were measured, rows whose kernel no longer exists.
    pub fn regressions(&self, measured: &[Measured], all: bool) -> Vec<String> {
        let new = Self::of(measured);
        let mut problems = Vec::new();
        for (gpu, driver) in &new.drivers {
            match self.drivers.get(gpu) {
                Some(before) if before == driver => {}
                Some(before) => problems.push(format!(
                    "{gpu}: the table was made with {before}, and this is {driver}; compare with the same version, \
                     or --update"
                )),
                None => problems.push(format!("{gpu} is not in the table; --update writes it")),
            }
        }
        if !problems.is_empty() {
            return problems;
        }
        for ((gpu, kernel), cells) in &new.rows {
            match self.rows.get(&(gpu.clone(), kernel.clone())) {
                None => problems.push(format!("{kernel} on {gpu} is not in the table; --update writes it")),
                Some(before) => problems.extend(worse(before, cells).map(|what| format!("{kernel} on {gpu}: {what}"))),
            }
        }
        let gone =
            self.rows.keys().filter(|key| all && new.drivers.contains_key(&key.0) && !new.rows.contains_key(*key));
        problems.extend(
            gone.map(|(gpu, kernel)| format!("{kernel} on {gpu} is in the table, and in no step; --update removes it")),
        );
        problems
    }
}

/// The columns that have become worse: by any amount, or by more than the given share or difference.
fn worse(before: &[f64], now: &[f64]) -> impl Iterator<Item = String> {
    let judged = COLUMNS.iter().zip(before.iter().zip(now)).filter_map(|(&name, (&before, &now))| {
        let bad = match name {
            "spill" | "scratch" => now > before,
            "sub/SIMD" => now < before,
            "inv.thr." => now > before * 1.02,
            "hot%" | "peak%" => now < before - 1.0,
            _ => false,
        };
        bad.then(|| format!("{name} was {before} and is {now}"))
    });
    judged.collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(kernel: &str) -> Row {
        Row {
            kernel: kernel.to_owned(),
            lanes: 64,
            vgprs: 96,
            sgprs: 128,
            spills: 0,
            scratch: 0,
            lds: 4096,
            subgroups: 16,
            instructions: 600,
            valu: 500,
            salu: 40,
            vmem: 12,
            smem: 3,
            ds: 30,
            vopd: 0,
            latency: 9000,
            inverse_throughput: 1000,
            multiply_adds: 384,
            hot_loop: 89.68,
            of_peak: 94.21,
            weights: 1.0,
        }
    }

    fn measured(rows: Vec<Row>) -> Vec<Measured> {
        vec![Measured { gpu: "navi31".to_owned(), driver: "radv Mesa 25".to_owned(), rows }]
    }

    #[test]
    fn a_table_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("table.tsv");
        let table = Table::of(&measured(vec![row("conv f32[1] -> f32[2]"), row("gemm")]));
        table.write(&path).unwrap_or_else(|error| panic!("{error:#}"));
        let read = Table::read(&path).unwrap_or_else(|error| panic!("{error:#}"));
        assert_eq!(read, table);
        assert_eq!(read.regressions(&measured(vec![row("conv f32[1] -> f32[2]"), row("gemm")]), true), [""; 0]);

        let text = fs::read_to_string(&path).expect("readable").replace("\t96\t", "\tmany\t");
        fs::write(&path, text).expect("writable");
        let error = Table::read(&path).expect_err("a cell is no number");
        assert!(error.to_string().ends_with("table.tsv:3: not a row"), "{error}");
        let error = Table::read(&folder.path().join("none")).expect_err("there is no such file");
        assert!(error.to_string().contains("--update"), "{error}");
    }

    #[test]
    fn what_became_worse_is_named() {
        let table = Table::of(&measured(vec![row("conv")]));
        let problems = |change: fn(&mut Row)| {
            let mut row = row("conv");
            change(&mut row);
            table.regressions(&measured(vec![row]), true)
        };
        assert_eq!(problems(|row| row.subgroups = 14), ["conv on navi31: sub/SIMD was 16 and is 14"]);
        assert_eq!(problems(|row| row.inverse_throughput = 1021), ["conv on navi31: inv.thr. was 1000 and is 1021"]);
        assert_eq!(problems(|row| row.spills = 1), ["conv on navi31: spill was 0 and is 1"]);
        assert_eq!(problems(|row| row.of_peak = 93.1), ["conv on navi31: peak% was 94.2 and is 93.1"]);
        assert_eq!(problems(|row| row.hot_loop = 60.0), ["conv on navi31: hot% was 89.7 and is 60"]);
        // Better, within the margin, or neither better nor worse.
        assert_eq!(problems(|row| (row.subgroups, row.inverse_throughput) = (18, 1020)), [""; 0]);
        assert_eq!(problems(|row| (row.hot_loop, row.of_peak) = (88.7, 100.0)), [""; 0]);
        assert_eq!(problems(|row| (row.vgprs, row.instructions, row.lds) = (120, 900, 8192)), [""; 0]);
    }

    #[test]
    fn a_table_of_something_else_is_not_compared_with() {
        let table = Table::of(&measured(vec![row("conv"), row("old")]));
        let new = measured(vec![row("conv"), row("new")]);
        assert_eq!(
            table.regressions(&new, true),
            [
                "new on navi31 is not in the table; --update writes it",
                "old on navi31 is in the table, and in no step; --update removes it",
            ]
        );
        assert_eq!(table.regressions(&new, false).len(), 1, "a filter leaves kernels out");
        let mut other = measured(vec![row("conv")]);
        other[0].driver = "radv Mesa 26".to_owned();
        let problems = table.regressions(&other, true);
        assert!(problems.len() == 1 && problems[0].contains("Mesa 25, and this is radv Mesa 26"), "{problems:?}");
        other[0].gpu = "navi48".to_owned();
        assert_eq!(table.regressions(&other, true), ["navi48 is not in the table; --update writes it"]);
    }

    #[test]
    fn spills_and_scratch_are_told() {
        let (mut spilled, mut scratch) = (row("conv"), row("gemm"));
        (spilled.spills, scratch.scratch) = (3, 64);
        let measured = measured(vec![spilled, row("relu"), scratch]);
        assert_eq!(
            spills(&measured[0]).collect::<Vec<_>>(),
            [
                "conv on navi31: 3 registers spilled, 0 bytes of scratch",
                "gemm on navi31: 0 registers spilled, 64 bytes of scratch",
            ]
        );
    }
}
