//! The GPUs in a machine, and the command by which its system installs a driver that this program can use.

use std::fs;

/// Maker of a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vendor {
    Amd,
    Intel,
    Nvidia,
    Other,
}

/// A family of systems that install alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    Debian,
    Ubuntu,
    Fedora,
    Arch,
    OtherLinux,
    MacOs,
    Windows,
    Other,
}

impl Vendor {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amd => "AMD",
            Self::Intel => "Intel",
            Self::Nvidia => "NVIDIA",
            Self::Other => "another maker",
        }
    }

    /// From its number on the PCI bus.
    fn of(text: &str) -> Self {
        match text.trim() {
            "0x1002" => Self::Amd,
            "0x8086" => Self::Intel,
            "0x10de" => Self::Nvidia,
            _ => Self::Other,
        }
    }
}

/// The GPUs that Linux sees, with a driver for computing or without; nothing is known elsewhere.
pub fn gpus() -> Vec<Vendor> {
    let Ok(devices) = fs::read_dir("/sys/bus/pci/devices") else { return Vec::new() };
    let read = |path: std::path::PathBuf| fs::read_to_string(path).ok();
    // Classes 0x0300.. to 0x0302.. are displays and 3D controllers.
    let display = |class: &str| class.starts_with("0x03");
    let gpu = |path: std::path::PathBuf| -> Option<Vendor> {
        read(path.join("class")).filter(|class| display(class))?;
        Some(Vendor::of(&read(path.join("vendor"))?))
    };
    devices.flatten().filter_map(|entry| gpu(entry.path())).collect()
}

impl System {
    /// The one that this program runs on.
    pub fn this() -> Self {
        match std::env::consts::OS {
            "linux" => Self::of_release(&fs::read_to_string("/etc/os-release").unwrap_or_default()),
            "macos" => Self::MacOs,
            "windows" => Self::Windows,
            _ => Self::Other,
        }
    }

    /// From the lines of `/etc/os-release`: what it is, and what it is like.
    fn of_release(text: &str) -> Self {
        let value =
            |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().trim_matches('"');
        let mut names = std::iter::once(value("ID=")).chain(value("ID_LIKE=").split_whitespace());
        let known = |name: &str| match name {
            "ubuntu" => Some(Self::Ubuntu),
            "debian" => Some(Self::Debian),
            "fedora" | "rhel" | "centos" => Some(Self::Fedora),
            "arch" => Some(Self::Arch),
            _ => None,
        };
        names.find_map(known).unwrap_or(Self::OtherLinux)
    }

    /// The command that installs a driver for a GPU; `None` where the system has one or none is known.
    pub fn driver(self, vendor: Vendor) -> Option<&'static str> {
        match (self, vendor) {
            (Self::Ubuntu, Vendor::Nvidia) => Some("sudo ubuntu-drivers install"),
            (Self::Debian, Vendor::Nvidia) => Some("sudo apt-get install nvidia-driver (of the section non-free)"),
            (Self::Debian | Self::Ubuntu, _) => Some("sudo apt-get install mesa-vulkan-drivers"),
            (Self::Fedora, Vendor::Nvidia) => Some("sudo dnf install akmod-nvidia (of RPM Fusion)"),
            (Self::Fedora, _) => Some("sudo dnf install mesa-vulkan-drivers"),
            (Self::Arch, Vendor::Amd) => Some("sudo pacman -S vulkan-radeon"),
            (Self::Arch, Vendor::Intel) => Some("sudo pacman -S vulkan-intel"),
            (Self::Arch, Vendor::Nvidia) => Some("sudo pacman -S nvidia nvidia-utils"),
            _ => None,
        }
    }

    /// The command that installs a software adapter, which runs the shaders without a GPU.
    pub fn software(self) -> Option<&'static str> {
        match self {
            Self::Debian | Self::Ubuntu => Some("sudo apt-get install mesa-vulkan-drivers"),
            Self::Fedora => Some("sudo dnf install mesa-vulkan-drivers"),
            Self::Arch => Some("sudo pacman -S vulkan-swrast"),
            _ => None,
        }
    }

    /// Advice where there is no command for it.
    pub fn otherwise(self) -> &'static str {
        match self {
            Self::MacOs => "Metal is part of macOS: without an adapter, this is a virtual machine without one",
            Self::Windows => "install the driver of the GPU's maker; DirectX 12 is part of Windows",
            _ => "install the Vulkan driver (Mesa, or that of the GPU's maker) by this system's package manager",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{System, Vendor};

    #[test]
    fn systems_are_known_by_what_they_are_or_are_like() {
        for (release, system) in [
            ("PRETTY_NAME=\"Debian GNU/Linux 12\"\nID=debian\n", System::Debian),
            ("ID=ubuntu\nID_LIKE=debian\n", System::Ubuntu),
            ("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", System::Ubuntu),
            ("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", System::Fedora),
            ("ID=manjaro\nID_LIKE=arch\n", System::Arch),
            ("ID=nixos\n", System::OtherLinux),
            ("", System::OtherLinux),
        ] {
            assert_eq!(System::of_release(release), system, "{release}");
        }
    }

    #[test]
    fn there_is_a_command_or_a_sentence_for_every_gpu() {
        assert_eq!(System::Arch.driver(Vendor::of("0x1002\n")), Some("sudo pacman -S vulkan-radeon"));
        assert_eq!(System::Debian.driver(Vendor::of("0x8086")), Some("sudo apt-get install mesa-vulkan-drivers"));
        assert_eq!(System::Ubuntu.driver(Vendor::of("0x10de")), Some("sudo ubuntu-drivers install"));
        assert_eq!(System::MacOs.driver(Vendor::of("0x106b")), None);
        assert!(System::MacOs.otherwise().contains("Metal") && System::Windows.otherwise().contains("maker"));
    }
}
