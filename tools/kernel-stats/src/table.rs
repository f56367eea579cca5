//! Printing, and the committed table that measurements are held to.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::Measured;
use crate::measure::Row;

/// The columns of the printed and of the committed table behind the kernel's name.
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
        // Where the blocks could not be weighed as the compiler weighs them, the percentage of the peak is an estimate.
        let mark = if (row.weights - 1.0).abs() > 0.02 { " (peak% estimated)" } else { "" };
        println!("{}{}{mark}", line(cells), row.kernel);
    }
    println!();
}

/// All that was measured.
pub fn json(measured: &[Measured]) -> Result<String> {
    let gpus: Vec<_> = measured
        .iter()
        .map(|measured| serde_json::json!({ "gpu": measured.gpu, "driver": measured.driver, "kernels": measured.rows }))
        .collect();
    Ok(serde_json::to_string_pretty(&gpus)?)
}

/// Kernels whose registers did not suffice, one sentence each.
pub fn spills(measured: &Measured) -> impl Iterator<Item = String> + '_ {
    let spilled = measured.rows.iter().filter(|row| row.spills + row.scratch > 0);
    spilled.map(|row| {
        format!(
            "{} on {}: {} registers spilled, {} bytes of scratch",
            row.kernel, measured.gpu, row.spills, row.scratch
        )
    })
}

/// The committed table: what of a kernel must not become worse.
#[derive(Debug, Default, PartialEq)]
pub struct Table {
    /// The driver that it was made with.
    drivers: BTreeMap<String, String>,
    /// Cells by GPU and kernel.
    rows: BTreeMap<(String, String), Vec<f64>>,
}

impl Table {
    /// The table of what was measured.
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
        fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
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

    /// What has become worse, and, if `all` kernels were measured, which rows are of no kernel any more.
    pub fn regressions(&self, measured: &[Measured], all: bool) -> Vec<String> {
        let new = Self::of(measured);
        let mut problems = Vec::new();
        for (gpu, driver) in &new.drivers {
            match self.drivers.get(gpu) {
                Some(before) if before == driver => {}
                Some(before) => problems.push(format!(
                    "{gpu}: the table was made with {before}, and this is {driver}; compare with the same version, or --update"
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

/// Which columns have become worse: by any amount, or by more than the given share or difference.
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
