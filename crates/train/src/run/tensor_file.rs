//! Tensors as they lie in safetensors files: encoded, and decoded from every float type.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Result;
use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView};

use crate::run::files::write_atomically;

/// A named tensor, encoded.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Little-endian, row-major.
    pub bytes: Vec<u8>,
}

impl Encoded {
    /// A tensor of 32-bit floats.
    pub fn floats(name: impl Into<String>, shape: Vec<usize>, values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { name: name.into(), dtype: Dtype::F32, shape, bytes }
    }

    /// A tensor of 64-bit integers, PyTorch's default.
    pub fn integers(name: impl Into<String>, shape: Vec<usize>, values: &[i64]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { name: name.into(), dtype: Dtype::I64, shape, bytes }
    }
}

/// Writes tensors to a temporary file, and renames it to `path` when it is on the disk.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, tensors: &[Encoded]) -> Result<()> {
    write_atomically(path, &serialize(tensors, HashMap::new())?)
}

/// The bytes of a file of tensors and metadata.
///
/// # Errors
/// When a tensor's bytes are not as long as its shape says.
pub fn serialize(tensors: &[Encoded], metadata: HashMap<String, String>) -> Result<Vec<u8>> {
    let views = tensors
        .iter()
        .map(|tensor| Ok((&tensor.name, TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes)?)))
        .collect::<Result<Vec<_>>>()?;
    let metadata = Some(metadata).filter(|metadata| !metadata.is_empty());
    Ok(safetensors::serialize(views, metadata)?)
}

/// The elements as 32-bit floats, rounded where they are longer; nothing if they are no floats of 16, 32 or 64 bits.
pub fn decode(view: &TensorView<'_>) -> Option<Vec<f32>> {
    fn each<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        bytes.as_chunks().0.iter().map(|&word| value(word)).collect()
    }
    let bytes = view.data();
    Some(match view.dtype() {
        Dtype::F32 => each(bytes, f32::from_le_bytes),
        Dtype::F16 => each(bytes, |word| f16::from_le_bytes(word).to_f32()),
        Dtype::BF16 => each(bytes, |word| bf16::from_le_bytes(word).to_f32()),
        Dtype::F64 => each(bytes, |word| f64::from_le_bytes(word) as f32),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_of_every_length_are_decoded() {
        let values = [1.0f32, -0.5, 0.0, 65504.0, 0.1];
        let half: Vec<u8> = values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect();
        let brain: Vec<u8> = values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect();
        let double: Vec<u8> = values.iter().flat_map(|&value| f64::from(value).to_le_bytes()).collect();
        let decoded = |dtype, bytes: &[u8]| {
            decode(&TensorView::new(dtype, vec![5, 1], bytes).expect("five elements")).expect("floats")
        };
        assert_eq!(decoded(Dtype::F32, &Encoded::floats("x", vec![5, 1], &values).bytes), values);
        assert_eq!(decoded(Dtype::F64, &double), values);
        assert_eq!(decoded(Dtype::F16, &half)[..4], values[..4]);
        assert!((decoded(Dtype::F16, &half)[4] - 0.1).abs() < 5e-5);
        assert_eq!(decoded(Dtype::BF16, &brain)[..3], values[..3]);
        assert!((decoded(Dtype::BF16, &brain)[4] - 0.1).abs() < 4e-4);
        let integers = Encoded::integers("x", vec![], &[3]).bytes;
        assert_eq!(decode(&TensorView::new(Dtype::I64, vec![], &integers).expect("one element")), None);
    }
}
