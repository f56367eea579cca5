//! The launch of a kernel on a GPU: shader, prelude, bindings and grid.

use std::fmt::{self, Write as _};

use super::Target;
use crate::shader;

/// Helper of the shaders that sum pairs over the lanes of a workgroup, and the one that does so in subgroups.
pub(crate) const REDUCE_LANES: &str = shader!("reduce_lanes");
const REDUCE_LANES_SUBGROUP: &str = shader!("reduce_lanes_subgroup");

const STORED_F32: &str = shader!("stored/f32");
const STORED_F16: &str = shader!("stored/f16");
const STORED_PACKED: &str = shader!("stored/packed");

/// The text of a file in `shaders/`, named without its ending: `shader!("conv2d/tile")`. For the crates of this
/// workspace, which lie two folders below its root.
#[macro_export]
macro_rules! shader {
    ($name:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shaders/", $name, ".wgsl"))
    };
}

/// The launch of a kernel on a GPU: plain WGSL, the constants that specialise it, the bindings and the grid.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Text of the file in `shaders/`.
    pub wgsl: &'static str,
    /// Texts of shared helper files that the shader uses.
    pub helpers: Vec<&'static str>,
    /// WGSL extensions that the shader uses.
    pub enable: Option<&'static str>,
    /// True if it uses subgroups, for which naga has no `enable` directive yet.
    pub subgroups: bool,
    /// Generated in front of the shader, in this order.
    pub prelude: Vec<Prelude>,
    /// The entry point; a file may hold several variants.
    pub entry: &'static str,
    /// The operands of `@binding(0)`, `@binding(1)`, … in group 0.
    pub bindings: Vec<Binding>,
    /// Number of workgroups. The device folds them into a grid whose rows hold [`GRID_ROW`] of them.
    pub workgroups: usize,
    /// Further passes over the same operands, which run after this one.
    later: Vec<Launch>,
}

/// Workgroups in one row of a folded grid: WebGPU's limit per dimension.
pub const GRID_ROW: usize = 65_535;

/// The number of a workgroup in a grid that is folded into rows of [`GRID_ROW`].
const WORKGROUP_INDEX: &str = "fn workgroup_index(wid: vec3<u32>) -> u32 { return wid.x + wid.y * GRID_ROW; }\n";

/// One line of the generated prelude.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Prelude {
    /// `const NAME: u32 = …u;`
    U32(&'static str, u32),
    /// `const NAME: f32 = …;`
    F32(&'static str, f32),
    /// `const NAME: bool = …;`
    Bool(&'static str, bool),
    /// `alias NAME = …;`
    Alias(&'static str, &'static str),
}

impl Prelude {
    /// A size or count.
    pub fn size(name: &'static str, value: usize) -> Self {
        let value =
            u32::try_from(value).expect("sizes that reach a shader fit in 32 bits: tensors are limited to 2^31 words");
        Self::U32(name, value)
    }
}

impl fmt::Display for Prelude {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Prelude::U32(name, value) => writeln!(f, "const {name}: u32 = {value}u;"),
            Prelude::F32(name, value) => writeln!(f, "const {name}: f32 = f32({value:e});"),
            Prelude::Bool(name, value) => writeln!(f, "const {name}: bool = {value};"),
            Prelude::Alias(name, target) => writeln!(f, "alias {name} = {target};"),
        }
    }
}

/// One binding of a shader: which operand it sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Binding {
    /// `var<storage, read>` over the kernel's input of this index.
    Input(usize),
    /// `var<storage, read_write>` over the kernel's output of this index.
    Output(usize),
    /// `var<storage, read>` over the kernel's output of this index, which an earlier pass wrote.
    Written(usize),
}

impl Launch {
    /// A launch of `main` whose bindings are `inputs` inputs, then `outputs` outputs, in order.
    pub fn new(wgsl: &'static str, inputs: usize, outputs: usize, workgroups: usize) -> Self {
        let bindings = (0..inputs).map(Binding::Input).chain((0..outputs).map(Binding::Output)).collect();
        Self {
            wgsl,
            helpers: Vec::new(),
            enable: None,
            subgroups: false,
            prelude: Vec::new(),
            entry: "main",
            bindings,
            workgroups,
            later: Vec::new(),
        }
    }

    /// Adds a size or count.
    #[must_use]
    pub fn size(mut self, name: &'static str, value: usize) -> Self {
        self.prelude.push(Prelude::size(name, value));
        self
    }

    /// Adds an offset to be subtracted modulo 2^32, which may be negative.
    #[must_use]
    pub fn wrapping(mut self, name: &'static str, value: isize) -> Self {
        self.prelude.push(Prelude::U32(name, value as u32));
        self
    }

    /// Adds a float constant.
    #[must_use]
    pub fn float(mut self, name: &'static str, value: f32) -> Self {
        self.prelude.push(Prelude::F32(name, value));
        self
    }

    /// Adds a switch between variants.
    #[must_use]
    pub fn switch(mut self, name: &'static str, value: bool) -> Self {
        self.prelude.push(Prelude::Bool(name, value));
        self
    }

    /// Adds a type alias.
    #[must_use]
    pub fn alias(mut self, name: &'static str, target: &'static str) -> Self {
        self.prelude.push(Prelude::Alias(name, target));
        self
    }

    /// Chooses another entry point than `main`.
    #[must_use]
    pub fn entry(mut self, entry: &'static str) -> Self {
        self.entry = entry;
        self
    }

    /// Adds the text of a helper file.
    #[must_use]
    pub fn helpers(mut self, helpers: &[&'static str]) -> Self {
        self.helpers.extend(helpers);
        self
    }

    /// Adds the helper by which a shader reads and writes tensors of activations, `width` elements at a time: the
    /// aliases `Stored`, the type in memory, and `Elem`, the type of the arithmetic (`f32`, or a vector of them), and
    /// `unpack` and `pack` between them. Both are the same, unless the
    /// kernel is run in halves ([`super::Form::in_halves`]).
    #[must_use]
    pub fn stored(mut self, width: usize) -> Self {
        self.helpers.push(STORED_F32);
        self.alias(
            "Elem",
            match width {
                4 => "vec4<f32>",
                2 => "vec2<f32>",
                _ => "f32",
            },
        )
    }

    /// The same launch where activations are stored in 16 bits; none where they are not read and written in fours.
    pub fn in_halves(mut self, target: &Target) -> Option<Self> {
        let stored = self.helpers.iter_mut().find(|helper| **helper == STORED_F32)?;
        if !self.prelude.contains(&Prelude::Alias("Elem", "vec4<f32>")) {
            return None;
        }
        *stored = if target.shader_f16 { STORED_F16 } else { STORED_PACKED };
        self.enable = target.shader_f16.then_some("f16");
        self.later = self.later.into_iter().map(|pass| pass.in_halves(target)).collect::<Option<_>>()?;
        Some(self)
    }

    /// The same launch, to the bit, where sums over the lanes of a workgroup end in a subgroup: if the adapter has
    /// such, and they are large enough to take two steps of the sum's tree or more.
    #[must_use]
    pub fn in_subgroups(mut self, target: &Target) -> Self {
        self.later = self.later.into_iter().map(|pass| pass.in_subgroups(target)).collect();
        let size = |name: &str| {
            self.prelude.iter().find_map(|line| match line {
                Prelude::U32(known, value) if *known == name => Some(*value),
                _ => None,
            })
        };
        let (Some(columns), Some(half)) = (size("COLUMNS"), size("HALF")) else { return self };
        let most = (target.subgroup / (2 * columns)).checked_ilog2().map_or(0, |steps| 1 << steps);
        let tail = half.min(most);
        if tail >= 2
            && let Some(helper) = self.helpers.iter_mut().find(|helper| **helper == REDUCE_LANES)
        {
            *helper = REDUCE_LANES_SUBGROUP;
            self.subgroups = true;
            self.prelude.push(Prelude::U32("TAIL", tail));
        }
        self
    }

    /// Replaces the bindings.
    #[must_use]
    pub fn bindings(mut self, bindings: impl Into<Vec<Binding>>) -> Self {
        self.bindings = bindings.into();
        self
    }

    /// Adds a pass over the kernel's operands that runs after this one, where no shader does both.
    #[must_use]
    pub fn then(mut self, mut pass: Self) -> Self {
        let later = std::mem::take(&mut pass.later);
        self.later.push(pass);
        self.later.extend(later);
        self
    }

    /// This launch and those that follow it: a dispatch each.
    pub fn passes(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(&self.later)
    }

    /// The whole shader: prelude, helpers, file. The prelude has `WORKGROUPS`, their number, and the function
    /// `workgroup_index`, which unfolds the grid.
    pub fn source(&self) -> String {
        let mut text = String::with_capacity(self.wgsl.len() + 1024);
        if let Some(extension) = self.enable {
            let _ = writeln!(text, "enable {extension};");
        }
        let _ = writeln!(text, "const WORKGROUPS: u32 = {}u;", self.workgroups);
        let _ = writeln!(text, "const GRID_ROW: u32 = {GRID_ROW}u;");
        text.push_str(WORKGROUP_INDEX);
        for line in &self.prelude {
            let _ = write!(text, "{line}");
        }
        for helper in &self.helpers {
            text.push_str(helper);
        }
        text.push_str(self.wgsl);
        text
    }

    /// The folded grid: `workgroups` in rows of [`GRID_ROW`].
    pub fn grid(&self) -> [u32; 3] {
        let rows = self.workgroups.div_ceil(GRID_ROW).max(1);
        let columns = if rows == 1 { self.workgroups } else { GRID_ROW };
        [columns as u32, rows as u32, 1]
    }
}
