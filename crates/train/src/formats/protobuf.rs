//! Messages of Protocol Buffers, written field by field: all that ONNX models and TensorBoard's events need.
//!
//! A field is a key, `number << 3 | wire type`, and a value: a varint (wire type 0), eight bytes (1), a length and so
//! many bytes (2), or four bytes (5). Numbers are little-endian. See
//! <https://protobuf.dev/programming-guides/encoding>.

/// A message under way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message(Vec<u8>);

fn varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

impl Message {
    /// Without fields.
    pub fn new() -> Self {
        Self::default()
    }

    fn key(&mut self, field: u32, wire_type: u32) {
        varint(&mut self.0, u64::from(field << 3 | wire_type));
    }

    /// A field of type `int64`, `int32` or of an enumeration.
    pub fn int(mut self, field: u32, value: i64) -> Self {
        self.key(field, 0);
        varint(&mut self.0, value.cast_unsigned());
        self
    }

    /// A field of type `float`.
    pub fn float(mut self, field: u32, value: f32) -> Self {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    /// A field of type `double`.
    pub fn double(mut self, field: u32, value: f64) -> Self {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
        self
    }

    /// A repeated field of type `double`, packed.
    pub fn doubles(self, field: u32, values: &[f64]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.bytes(field, &bytes)
    }

    /// A field of type `bytes`.
    pub fn bytes(mut self, field: u32, value: &[u8]) -> Self {
        self.key(field, 2);
        varint(&mut self.0, value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    /// A field of type `string`.
    pub fn text(self, field: u32, value: &str) -> Self {
        self.bytes(field, value.as_bytes())
    }

    /// A field that is a message.
    pub fn message(self, field: u32, value: &Self) -> Self {
        self.bytes(field, &value.0)
    }

    /// A repeated field of messages, or more elements of one.
    pub fn messages<'a>(self, field: u32, values: impl IntoIterator<Item = &'a Self>) -> Self {
        values.into_iter().fold(self, |message, value| message.message(field, value))
    }

    /// The encoded message.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::Message;

    /// The examples of the encoding's specification, and both ends of its integers.
    #[test]
    fn fields_are_encoded_as_specified() {
        assert_eq!(Message::new().int(1, 150).finish(), [0x08, 0x96, 0x01]);
        assert_eq!(Message::new().text(2, "testing").finish(), b"\x12\x07testing");
        let inner = Message::new().int(1, 150);
        assert_eq!(Message::new().message(3, &inner).finish(), [0x1a, 0x03, 0x08, 0x96, 0x01]);
        assert_eq!(Message::new().messages(3, [&inner, &Message::new()]).finish()[5..], [0x1a, 0x00]);
        assert_eq!(Message::new().int(1, -1).finish(), [&[0x08][..], &[0xff; 9], &[0x01]].concat());
        assert_eq!(Message::new().int(16, 0).finish(), [0x80, 0x01, 0x00]);
        assert_eq!(Message::new().double(1, 1.0).finish(), [0x09, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f]);
        assert_eq!(Message::new().doubles(6, &[1.0]).finish(), [0x32, 8, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f]);
        assert_eq!(Message::new().float(2, 1.0).finish(), [0x15, 0, 0, 0x80, 0x3f]);
    }
}
