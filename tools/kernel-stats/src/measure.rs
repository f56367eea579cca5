//! Figures read off a compiled shader: the compiler's statistics, and the share of multiply-adds.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::flow::Flow;
use crate::listing::{Block, Instruction, Listing};
use crate::vulkan::Compiled;

/// One shader on one GPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The kernel and its shapes.
    pub kernel: String,
    /// Lanes per subgroup.
    pub lanes: u32,
    /// Vector registers per lane.
    pub vgprs: u64,
    /// Scalar registers per subgroup.
    pub sgprs: u64,
    /// Spilled registers of either kind.
    pub spills: u64,
    /// Bytes of scratch memory.
    pub scratch: u64,
    /// Bytes of workgroup memory.
    pub lds: u64,
    /// Subgroups that a SIMD holds at once; the driver counts one of 64 lanes twice.
    pub subgroups: u64,
    /// Machine instructions, in total and by class.
    pub instructions: u64,
    pub valu: u64,
    pub salu: u64,
    pub vmem: u64,
    pub smem: u64,
    /// Accesses to workgroup memory.
    pub ds: u64,
    /// Dual-issued instructions.
    pub vopd: u64,
    /// Cycles of one subgroup alone.
    pub latency: u64,
    /// Busy cycles of a SIMD for 64 lanes.
    pub inverse_throughput: u64,
    /// Multiply-add operations in the shader's code.
    pub multiply_adds: u64,
    /// Their percentage among the operations of the hot loop.
    pub hot_loop: f64,
    /// The cycles that the multiply-adds take at the GPU's peak, as a percentage of the inverse throughput.
    pub of_peak: f64,
    /// The compiler's latency computed with this program's block weights, relative to the compiler's own: 1 if the
    /// weights agree.
    pub weights: f64,
}

/// Reads a compiled shader; `rate` is the most lanes whose multiply-add a SIMD of the GPU starts in a cycle.
pub fn read(kernel: &str, compiled: &Compiled, rate: f64) -> Result<Row> {
    let statistic = |name: &str| compiled.statistics.get(name).copied();
    let number = |name: &str| statistic(name).map(|value| value as u64);
    let wanted = |name: &str| number(name).with_context(|| format!("{kernel}: the driver does not tell {name:?}"));
    let listing = Listing::parse(&compiled.listing);
    let flow = Flow::of(&listing);
    let instructions = || listing.blocks.iter().flat_map(|block| &block.instructions);
    let class = |prefixes: &[&str]| {
        let starts = |name: &String| prefixes.iter().any(|prefix| name.starts_with(prefix));
        instructions().filter(|instruction| instruction.operations.iter().any(starts)).count() as u64
    };
    let blocks = || listing.blocks.iter().zip(&flow.weights);
    let weighted: f64 = blocks().map(|(block, weight)| weight * multiply_adds(&[block]) as f64).sum();
    let cycles = blocks().map(|(block, weight)| weight * block.instructions.iter().map(|i| i.cycles).sum::<f64>());
    let latency = listing.sums.get("latency");
    let latency =
        latency.with_context(|| format!("{kernel}: the driver does not tell the sums behind its statistics"))?;
    let inverse_throughput = wanted("Inverse Throughput")?;
    Ok(Row {
        kernel: kernel.to_owned(),
        lanes: compiled.lanes,
        vgprs: wanted("VGPRs")?,
        sgprs: wanted("SGPRs")?,
        spills: wanted("Spilled SGPRs")? + wanted("Spilled VGPRs")?,
        scratch: wanted("Scratch size")?,
        lds: wanted("LDS size")?,
        subgroups: wanted("Subgroups per SIMD")?,
        instructions: wanted("Instructions")?,
        valu: number("VALU").unwrap_or_else(|| class(&["v_"])),
        salu: number("SALU").unwrap_or_else(|| class(&["s_"])),
        vmem: number("VMEM").unwrap_or_else(|| class(&["buffer_", "global_", "scratch_"])),
        smem: number("SMEM").unwrap_or_else(|| class(&["s_load", "s_buffer_load"])),
        ds: class(&["ds_"]),
        vopd: number("VOPD").unwrap_or_else(|| class(&["v_dual_"])),
        latency: wanted("Latency")?,
        inverse_throughput,
        multiply_adds: listing.blocks.iter().map(|block| multiply_adds(&[block]) as u64).sum(),
        hot_loop: 100.0 * hot_loop(&listing, &flow),
        of_peak: 100.0 * weighted * 64.0 / rate / inverse_throughput.max(1) as f64,
        weights: cycles.sum::<f64>() / latency,
    })
}

fn multiply_adds(blocks: &[&Block]) -> usize {
    blocks.iter().flat_map(|block| &block.instructions).map(Instruction::multiply_adds).sum()
}

/// The share of multiply-adds among the operations of the loop that runs most of them, without its inner loops; of
/// the whole shader, if no loop has multiply-adds.
fn hot_loop(listing: &Listing, flow: &Flow) -> f64 {
    let inside = |own: &[usize]| own.iter().map(|&i| &listing.blocks[i]).collect::<Vec<_>>();
    let weight =
        |own: &[usize]| own.iter().map(|&i| flow.weights[i] * multiply_adds(&[&listing.blocks[i]]) as f64).sum::<f64>();
    let loops = flow.loops.iter().map(|of| flow.own_blocks(of)).filter(|own| weight(own) > 0.0);
    let hottest = loops.max_by(|a, b| weight(a).total_cmp(&weight(b)));
    let blocks = hottest.map_or_else(|| listing.blocks.iter().collect(), |own| inside(&own));
    let all: usize = blocks.iter().flat_map(|block| &block.instructions).map(Instruction::count).sum();
    multiply_adds(&blocks) as f64 / all.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The driver's output for the shader whose listing is the fixture.
    fn compiled() -> Compiled {
        let statistics = [
            ("VGPRs", 48.0),
            ("SGPRs", 128.0),
            ("Spilled SGPRs", 0.0),
            ("Spilled VGPRs", 0.0),
            ("Scratch size", 0.0),
            ("LDS size", 0.0),
            ("Subgroups per SIMD", 16.0),
            ("Instructions", 122.0),
            ("Latency", 6525.0),
            ("Inverse Throughput", 1195.0),
        ];
        Compiled {
            lanes: 32,
            statistics: statistics.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            isa: String::new(),
            listing: include_str!("../fixtures/conv2d_grad_weight.txt").to_owned(),
        }
    }

    #[test]
    fn a_row_holds_what_the_listing_says() {
        let row = read("conv", &compiled(), 64.0).unwrap_or_else(|error| panic!("{error:#}"));
        assert_eq!((row.multiply_adds, row.vopd, row.vmem, row.ds, row.smem), (32, 32, 9, 0, 4));
        // 32 multiply-adds of 56 operations in the inner loop; 16 of its 40 instructions are dual-issued.
        assert_eq!(row.hot_loop, 100.0 * (32.0 / 56.0));
        // The inner loop runs 16 times, as the compiler assumes.
        assert_eq!(row.of_peak, 100.0 * 32.0 * 16.0 / 1195.0);
        assert_eq!(row.weights, 1.0);
        let slower = read("conv", &compiled(), 32.0).unwrap_or_else(|error| panic!("{error:#}"));
        assert_eq!(slower.of_peak, 2.0 * row.of_peak);
    }

    #[test]
    fn without_a_loop_the_whole_shader_is_looked_at() {
        let text = "BB0\n\t(  1 clk)   v1 = v_fma_f32 v1, v2, v3\n\t(  1 clk)   s_endpgm\nlatency: 2.0\n";
        let compiled = Compiled { listing: text.to_owned(), ..compiled() };
        let row = read("fma", &compiled, 64.0).unwrap_or_else(|error| panic!("{error:#}"));
        assert_eq!((row.hot_loop, row.weights), (50.0, 1.0));
    }

    #[test]
    fn what_the_driver_does_not_tell_is_named() {
        let mut compiled = compiled();
        compiled.statistics.remove("Spilled VGPRs");
        let error = read("conv", &compiled, 64.0).expect_err("a statistic is missing");
        assert_eq!(error.to_string(), "conv: the driver does not tell \"Spilled VGPRs\"");
        compiled.statistics.insert("Spilled VGPRs".to_owned(), 0.0);
        compiled.listing.clear();
        let error = read("conv", &compiled, 64.0).expect_err("the listing is missing");
        assert!(error.to_string().starts_with("conv: the driver does not tell the sums"), "{error}");
    }
}
