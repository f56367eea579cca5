//! The messages of an ONNX model that are written here, with their numbers in `onnx.proto`.

use crate::formats::protobuf::Message;

/// The version of the file format, and that of the operators.
const IR_VERSION: i64 = 8;
const OPERATORS: i64 = 17;

/// Types of elements.
const FLOAT: i64 = 1;
const INT64: i64 = 7;

/// Types of attributes.
const ATTRIBUTE_FLOAT: i64 = 1;
const ATTRIBUTE_INT: i64 = 2;
const ATTRIBUTE_INTS: i64 = 7;

/// A graph under way: nodes in an order in which each comes after those that it reads.
#[derive(Debug, Default)]
pub struct GraphProto {
    nodes: Vec<Message>,
    initializers: Vec<Message>,
    inputs: Vec<Message>,
    outputs: Vec<Message>,
}

/// An attribute of a node.
#[derive(Debug, Clone, Copy)]
pub enum Attribute<'a> {
    Float(f32),
    Int(i64),
    Ints(&'a [usize]),
}

/// An extent of a tensor.
#[derive(Debug, Clone, Copy)]
pub enum Extent {
    Fixed(usize),
    /// Whatever the caller gives.
    Batch,
}

fn attribute(name: &str, value: Attribute<'_>) -> Message {
    let message = Message::new().text(1, name);
    match value {
        Attribute::Float(value) => message.float(2, value).int(20, ATTRIBUTE_FLOAT),
        Attribute::Int(value) => message.int(3, value).int(20, ATTRIBUTE_INT),
        Attribute::Ints(values) => {
            let message = values.iter().fold(message, |message, &value| message.int(8, value as i64));
            message.int(20, ATTRIBUTE_INTS)
        }
    }
}

fn value_info(name: &str, extents: &[Extent]) -> Message {
    let extents: Vec<Message> = extents
        .iter()
        .map(|extent| match extent {
            Extent::Fixed(extent) => Message::new().int(1, *extent as i64),
            Extent::Batch => Message::new().text(2, "N"),
        })
        .collect();
    let shape = Message::new().messages(1, &extents);
    let tensor = Message::new().int(1, FLOAT).message(2, &shape);
    Message::new().text(1, name).message(2, &Message::new().message(1, &tensor))
}

impl GraphProto {
    /// Adds a node that makes one tensor, and is named as that.
    pub fn node(&mut self, operator: &str, inputs: &[&str], output: &str, attributes: &[(&str, Attribute<'_>)]) {
        self.node_of_several(operator, inputs, &[output], attributes);
    }

    /// Adds a node that makes several tensors, and is named as the first.
    pub fn node_of_several(
        &mut self,
        operator: &str,
        inputs: &[&str],
        outputs: &[&str],
        attributes: &[(&str, Attribute<'_>)],
    ) {
        let node = inputs.iter().fold(Message::new(), |node, input| node.text(1, input));
        let node = outputs.iter().fold(node, |node, output| node.text(2, output));
        let node = outputs.first().iter().fold(node, |node, name| node.text(3, name)).text(4, operator);
        let attributes: Vec<Message> = attributes.iter().map(|&(name, value)| attribute(name, value)).collect();
        self.nodes.push(node.messages(5, &attributes));
    }

    /// Adds a constant of floats.
    pub fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(name, FLOAT, shape, &bytes);
    }

    /// Adds a constant vector of integers.
    pub fn integers(&mut self, name: &str, values: &[i64]) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(name, INT64, &[values.len()], &bytes);
    }

    fn constant(&mut self, name: &str, element: i64, shape: &[usize], bytes: &[u8]) {
        let tensor = shape.iter().fold(Message::new(), |tensor, &extent| tensor.int(1, extent as i64));
        self.initializers.push(tensor.int(2, element).text(8, name).bytes(9, bytes));
    }

    /// Says what the caller gives.
    pub fn input(&mut self, name: &str, extents: &[Extent]) {
        self.inputs.push(value_info(name, extents));
    }

    /// Says what the caller gets.
    pub fn output(&mut self, name: &str, extents: &[Extent]) {
        self.outputs.push(value_info(name, extents));
    }

    /// The bytes of a model of this graph, and of what there is to say about it.
    pub fn model(&self, name: &str, metadata: &[(&str, String)]) -> Vec<u8> {
        let graph = Message::new()
            .messages(1, &self.nodes)
            .text(2, name)
            .messages(5, &self.initializers)
            .messages(11, &self.inputs)
            .messages(12, &self.outputs);
        let properties: Vec<Message> =
            metadata.iter().map(|(key, value)| Message::new().text(1, key).text(2, value)).collect();
        Message::new()
            .int(1, IR_VERSION)
            .text(2, env!("CARGO_PKG_NAME"))
            .text(3, env!("CARGO_PKG_VERSION"))
            .message(7, &graph)
            .message(8, &Message::new().text(1, "").int(2, OPERATORS))
            .messages(14, &properties)
            .finish()
    }
}
