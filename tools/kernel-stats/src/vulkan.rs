//! The compiler, reached through plain Vulkan: `wgpu` does not open RADV's null device.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char};

use anyhow::{Context, Result, bail, ensure};
use ash::{Device, Entry, ext, khr, vk};
use serde::{Deserialize, Serialize};

/// The compiler's output for one shader.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Compiled {
    /// Lanes of a subgroup.
    pub lanes: u32,
    /// The compiler's statistics by name.
    pub statistics: BTreeMap<String, f64>,
    /// The shader in machine instructions.
    pub isa: String,
    /// The compiler's own listing (see [`crate::listing`]).
    #[serde(skip)]
    pub listing: String,
}

/// The device that the environment names (see [`crate::mesa`]), opened with the features that `wgpu` would request.
/// It stays open until the process ends.
pub struct Compiler {
    /// Keeps Vulkan's loader in memory.
    _entry: Entry,
    device: Device,
    properties: khr::pipeline_executable_properties::Device,
    /// The driver and its version.
    pub driver: String,
}

impl Compiler {
    /// Opens the first device of the driver that the environment names.
    pub fn open() -> Result<Self> {
        // SAFETY: every handle comes from the call before it and outlives its use, every pointer is to a local that
        // does too, and the extensions are the ones whose functions are called.
        unsafe {
            let entry = Entry::load().context("Vulkan's loader cannot be opened")?;
            let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
            let instance =
                entry.create_instance(&vk::InstanceCreateInfo::default().application_info(&application), None)?;
            let adapters = instance.enumerate_physical_devices()?;
            let Some(&adapter) = adapters.first() else { bail!("the driver knows no such GPU") };
            let mut driver = vk::PhysicalDeviceDriverProperties::default();
            let mut described = vk::PhysicalDeviceProperties2::default().push_next(&mut driver);
            instance.get_physical_device_properties2(adapter, &mut described);
            let name = string(&described.properties.device_name);
            let driver = format!("{} {}", string(&driver.driver_name), string(&driver.driver_info));
            ensure!(driver.starts_with("radv"), "{name} of {driver} is not a GPU of Mesa's RADV");

            let mut has11 = vk::PhysicalDeviceVulkan11Features::default();
            let mut has12 = vk::PhysicalDeviceVulkan12Features::default();
            let mut has = vk::PhysicalDeviceFeatures2::default().push_next(&mut has11).push_next(&mut has12);
            instance.get_physical_device_features2(adapter, &mut has);
            let core = vk::PhysicalDeviceFeatures::default().robust_buffer_access(true);
            let mut wants11 = vk::PhysicalDeviceVulkan11Features::default()
                .storage_buffer16_bit_access(has11.storage_buffer16_bit_access == vk::TRUE);
            let mut wants12 = vk::PhysicalDeviceVulkan12Features::default()
                .shader_float16(has12.shader_float16 == vk::TRUE)
                .shader_int8(has12.shader_int8 == vk::TRUE);
            let mut robustness = vk::PhysicalDeviceRobustness2FeaturesEXT::default()
                .robust_buffer_access2(true)
                .robust_image_access2(true);
            let mut executables =
                vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default().pipeline_executable_info(true);
            let queues = [vk::DeviceQueueCreateInfo::default().queue_priorities(&[1.0])];
            let extensions = [khr::pipeline_executable_properties::NAME.as_ptr(), ext::robustness2::NAME.as_ptr()];
            let create = vk::DeviceCreateInfo::default()
                .queue_create_infos(&queues)
                .enabled_extension_names(&extensions)
                .enabled_features(&core)
                .push_next(&mut wants11)
                .push_next(&mut wants12)
                .push_next(&mut robustness)
                .push_next(&mut executables);
            let device = instance.create_device(adapter, &create, None)?;
            let properties = khr::pipeline_executable_properties::Device::new(&instance, &device);
            Ok(Self { _entry: entry, device, properties, driver })
        }
    }

    /// Compiles a compute shader whose group 0 holds `bindings` storage buffers. After an error the process should
    /// end: objects made until then are not destroyed.
    pub fn compile(&self, spirv: &[u32], entry: &str, bindings: usize) -> Result<Compiled> {
        let entry = CString::new(entry)?;
        let slots: Vec<_> = (0..bindings as u32)
            .map(|binding| {
                vk::DescriptorSetLayoutBinding::default()
                    .binding(binding)
                    .descriptor_count(1)
                    .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                    .stage_flags(vk::ShaderStageFlags::COMPUTE)
            })
            .collect();
        let slots = vk::DescriptorSetLayoutCreateInfo::default().bindings(&slots);
        let code = vk::ShaderModuleCreateInfo::default().code(spirv);
        let flags = vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR
            | vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR;
        // SAFETY: every handle is made here of this device and destroyed once, after its last use; every pointer is to
        // a local that outlives the call; naga validated the SPIR-V.
        unsafe {
            let groups = [self.device.create_descriptor_set_layout(&slots, None)?];
            let layout = vk::PipelineLayoutCreateInfo::default().set_layouts(&groups);
            let layout = self.device.create_pipeline_layout(&layout, None)?;
            let module = self.device.create_shader_module(&code, None)?;
            let stage = vk::PipelineShaderStageCreateInfo::default()
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(module)
                .name(&entry);
            let create = vk::ComputePipelineCreateInfo::default().flags(flags).stage(stage).layout(layout);
            let made = self.device.create_compute_pipelines(vk::PipelineCache::null(), &[create], None);
            let pipeline = made.map_err(|(_, error)| error)?[0];
            let executables = self
                .properties
                .get_pipeline_executable_properties(&vk::PipelineInfoKHR::default().pipeline(pipeline))?;
            ensure!(executables.len() == 1, "{} executables of one compute shader", executables.len());
            let executable = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline).executable_index(0);
            let statistics = self.statistics(&executable)?;
            let isa = self.assembly(&executable)?;
            self.device.destroy_pipeline(pipeline, None);
            self.device.destroy_shader_module(module, None);
            self.device.destroy_pipeline_layout(layout, None);
            self.device.destroy_descriptor_set_layout(groups[0], None);
            Ok(Compiled { lanes: executables[0].subgroup_size, statistics, isa, listing: String::new() })
        }
    }

    /// The compiler's statistics by name.
    fn statistics(&self, executable: &vk::PipelineExecutableInfoKHR<'_>) -> Result<BTreeMap<String, f64>> {
        // SAFETY: the pipeline is alive, and was made with the flag that this call requires; of each union, the field
        // is read that the driver says it wrote.
        unsafe {
            let statistics = self.properties.get_pipeline_executable_statistics(executable)?;
            let value = |statistic: &vk::PipelineExecutableStatisticKHR<'_>| match statistic.format {
                vk::PipelineExecutableStatisticFormatKHR::BOOL32 => f64::from(statistic.value.b32),
                vk::PipelineExecutableStatisticFormatKHR::INT64 => statistic.value.i64 as f64,
                vk::PipelineExecutableStatisticFormatKHR::UINT64 => statistic.value.u64 as f64,
                _ => statistic.value.f64,
            };
            Ok(statistics.iter().map(|statistic| (string(&statistic.name), value(statistic))).collect())
        }
    }

    /// The machine code.
    fn assembly(&self, executable: &vk::PipelineExecutableInfoKHR<'_>) -> Result<String> {
        // SAFETY: the pipeline is alive, and was made with the flag that this call requires; the buffers have the
        // sizes that the driver asked for, and outlive the call.
        unsafe {
            let mut texts = self.properties.get_pipeline_executable_internal_representations(executable)?;
            let mut buffers: Vec<Vec<u8>> = texts.iter().map(|text| vec![0; text.data_size]).collect();
            for (text, buffer) in texts.iter_mut().zip(&mut buffers) {
                text.p_data = buffer.as_mut_ptr().cast();
            }
            let mut count = texts.len() as u32;
            let read = self.properties.fp().get_pipeline_executable_internal_representations_khr;
            read(self.device.handle(), executable, &mut count, texts.as_mut_ptr()).result()?;
            let assembly = texts.iter().zip(&buffers).find(|(text, _)| string(&text.name) == "Assembly");
            let (_, assembly) = assembly.context("the driver does not show its machine code")?;
            Ok(CStr::from_bytes_until_nul(assembly)?.to_string_lossy().into_owned())
        }
    }
}

/// A name in a Vulkan structure.
fn string(name: &[c_char]) -> String {
    let bytes: Vec<u8> = name.iter().take_while(|&&c| c != 0).map(|&c| c as u8).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
