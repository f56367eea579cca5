//! Every shader, in every specialisation of the table, is valid WGSL whose bindings are what the kernel says, and
//! translates to SPIR-V, MSL and HLSL: the cross-vendor check that needs no GPU.

use std::collections::BTreeMap;

use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module, StorageAccess};
use nets::resnet::Shortcut;
use nets::{Model, architecture};
use one::Config;
use tensor::optim::SgdConfig;
use tensor::{Binding, DType, Form, Graph, Launch, Spec, Target};

/// The variants of hardware, with subgroups of any size and without, and of software adapters are all checked.
const TARGETS: [Target; 5] = [
    Target::HARDWARE,
    Target { subgroup: 8, ..Target::HARDWARE },
    Target { subgroup: 32, ..Target::HARDWARE },
    Target { subgroup: 64, ..Target::HARDWARE },
    Target::SOFTWARE,
];

/// WebGPU's default limits, which every kernel stays within.
const MAX_BINDINGS: usize = 8;
const MAX_THREADS: u32 = 256;
const MAX_WORKGROUP_BYTES: u32 = 16 * 1024;

/// The least that this program asks of an adapter: to pack two floats of 16 bits into a word.
const HALVES_IN_WORDS: Capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;

fn check(launch: &Launch) -> Result<(), String> {
    let source = launch.source();
    let module = naga::front::wgsl::parse_str(&source).map_err(|error| error.emit_to_string(&source))?;
    let mut capabilities = if launch.enable.is_some() { Capabilities::SHADER_FLOAT16 } else { HALVES_IN_WORDS };
    capabilities.set(Capabilities::SUBGROUP, launch.subgroups);
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
        .subgroup_operations(naga::valid::SubgroupOperationSet::all())
        .validate(&module)
        .map_err(|error| error.emit_to_string(&source))?;
    interface(&module, &info, launch)?;
    translate(&module, &info, launch)
}

/// Bindings, threads and workgroup memory of the entry point.
fn interface(module: &Module, info: &ModuleInfo, launch: &Launch) -> Result<(), String> {
    let index = module.entry_points.iter().position(|entry| entry.name == launch.entry);
    let index = index.ok_or_else(|| format!("no entry point {}", launch.entry))?;
    let threads: u32 = module.entry_points[index].workgroup_size.iter().product();
    if threads > MAX_THREADS {
        return Err(format!("{threads} threads in a workgroup"));
    }
    if launch.bindings.len() > MAX_BINDINGS {
        return Err(format!("{} bindings", launch.bindings.len()));
    }
    let mut workgroup_bytes = 0;
    for (handle, global) in module.global_variables.iter() {
        if info.get_entry_point(index)[handle].is_empty() {
            continue;
        }
        match global.space {
            AddressSpace::WorkGroup => workgroup_bytes += module.types[global.ty].inner.size(module.to_ctx()),
            AddressSpace::Storage { access } => {
                let slot = global.binding.as_ref().map(|binding| (binding.group, binding.binding as usize));
                let expected = match slot {
                    Some((0, i)) => launch.bindings.get(i),
                    _ => None,
                };
                let writes = access.contains(StorageAccess::STORE);
                match expected {
                    Some(Binding::Input(_) | Binding::Written(_)) if !writes => {}
                    Some(Binding::Output(_)) if writes => {}
                    _ => return Err(format!("binding {:?} at {slot:?} is {expected:?} for the kernel", global.name)),
                }
            }
            _ => {}
        }
    }
    if workgroup_bytes > MAX_WORKGROUP_BYTES {
        return Err(format!("{workgroup_bytes} bytes of workgroup memory"));
    }
    Ok(())
}

fn translate(module: &Module, info: &ModuleInfo, launch: &Launch) -> Result<(), String> {
    let entry = (naga::ShaderStage::Compute, launch.entry.to_owned());
    let options = spv::Options { lang_version: (1, 3), ..spv::Options::default() };
    let pipeline = spv::PipelineOptions { shader_stage: entry.0, entry_point: entry.1.clone() };
    let words = spv::write_vec(module, info, &options, Some(&pipeline)).map_err(|error| format!("SPIR-V: {error}"))?;
    assert_eq!(words[0], 0x0723_0203, "SPIR-V begins with its magic number");

    let options = msl::Options { fake_missing_bindings: true, ..msl::Options::default() };
    let pipeline = msl::PipelineOptions { entry_point: Some(entry.clone()), ..msl::PipelineOptions::default() };
    let (text, _) = msl::write_string(module, info, &options, &pipeline).map_err(|error| format!("MSL: {error}"))?;
    assert!(text.contains("kernel void"), "MSL without a kernel");

    let options = hlsl::Options { fake_missing_bindings: true, ..hlsl::Options::default() };
    let pipeline = hlsl::PipelineOptions { entry_point: Some(entry) };
    let mut text = String::new();
    let mut writer = hlsl::Writer::new(&mut text, &options, &pipeline);
    writer.write(module, info, None).map_err(|error| format!("HLSL: {error}"))?;
    assert!(text.contains("numthreads"), "HLSL without a compute shader");
    Ok(())
}

fn check_all(launches: impl IntoIterator<Item = (String, Launch)>) {
    let mut seen: BTreeMap<(String, &'static str), String> = BTreeMap::new();
    for (name, launch) in launches {
        for pass in launch.passes() {
            seen.entry((pass.source(), pass.entry)).or_insert_with(|| {
                check(pass).unwrap_or_else(|error| panic!("{name}: {error}"));
                name.clone()
            });
        }
    }
    assert!(!seen.is_empty(), "nothing was checked");
    eprintln!("{} specialisations valid and translated", seen.len());
}

/// Every variant of a kernel, for every kind of adapter.
fn variants(name: &str, kernel: &Form) -> Vec<(String, Launch)> {
    let on = |target| kernel.candidates(target).into_iter().map(|launch| launch.in_subgroups(target));
    TARGETS.iter().flat_map(on).map(|launch| (name.to_owned(), launch)).collect()
}

#[test]
fn every_case_is_valid_everywhere() {
    let cases = cases::all().into_iter();
    check_all(cases.flat_map(|case| variants(&case.name, &case.kernel)));
}

/// The kernels of a network's training and evaluation steps, described and launched.
fn launches(name: &str, shortcut: Shortcut, branches: usize, batch: usize, dtype: DType) -> Vec<(String, Launch)> {
    let net = architecture(name, shortcut).expect("the network is known");
    let config = Config::paper(net.as_ref(), branches, 10);
    let mut launches = Vec::new();
    for training in [true, false] {
        let (mut graph, mut model) = (Graph::new(), Model::new());
        let image = graph.input("image", Spec::new(dtype, [1, batch, 32, 32, 4]));
        let labels = graph.input("labels", Spec::u32([batch]));
        let operands = (image, labels);
        let recorded = if training {
            let optimizer = SgdConfig { nesterov: true };
            one::training(&mut graph, &mut model, net.as_ref(), operands, &config, optimizer).map(|_| ())
        } else {
            one::evaluation(&mut graph, &mut model, net.as_ref(), operands, &config, 1).map(|_| ())
        };
        recorded.unwrap_or_else(|error| panic!("{name}: {error}"));
        for kernel in graph.live_kernels().expect("planned") {
            let name = format!("{name}: {}", kernel.describe());
            launches.extend(variants(&name, &kernel));
        }
    }
    launches
}

/// No device runs here, so that the batch may be the one that people train with.
#[test]
fn every_network_is_valid_everywhere() {
    let networks = [
        ("resnet20", Shortcut::B),
        ("resnet32", Shortcut::A),
        ("resnet32", Shortcut::B),
        ("resnet110", Shortcut::B),
        ("resnet164", Shortcut::B),
    ];
    let cases = networks.into_iter().flat_map(|(name, shortcut)| {
        [1, 3, 5].into_iter().flat_map(move |branches| {
            let precisions = [(2, DType::F32), (128, DType::F32), (128, DType::F16)];
            precisions.into_iter().flat_map(move |(batch, dtype)| launches(name, shortcut, branches, batch, dtype))
        })
    });
    check_all(cases);
}
