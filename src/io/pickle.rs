//! The part of Python's pickle format that PyTorch's files use, read without running anything: what a pickle would call is only
//! named, and tensors are the only calls that mean something here.

use std::collections::HashMap;

/// A value's place in [`Pickle::nodes`].
pub(super) type Id = usize;

/// A value. Containers hold places, so that neither sharing nor depth costs more than the pickle is long.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    None,
    Bool,
    Int(i64),
    Float,
    Text(String),
    Bytes,
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A class or function, `module.name`.
    Global(String),
    /// What stands outside of the pickle.
    Persistent(Id),
    /// A call of something with arguments.
    Call(Id, Id),
}

/// A pickle that was read.
pub(super) struct Pickle {
    nodes: Vec<Node>,
    pub(super) root: Id,
}

impl Pickle {
    pub(super) fn node(&self, id: Id) -> &Node {
        &self.nodes[id]
    }

    /// The elements of a tuple or list.
    pub(super) fn items(&self, id: Id) -> Option<&[Id]> {
        match self.node(id) {
            Node::Tuple(items) | Node::List(items) => Some(items),
            _ => None,
        }
    }

    pub(super) fn text(&self, id: Id) -> Option<&str> {
        match self.node(id) {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A whole number that is no less than 0.
    pub(super) fn size(&self, id: Id) -> Option<usize> {
        match self.node(id) {
            Node::Int(n) => usize::try_from(*n).ok(),
            _ => None,
        }
    }

    pub(super) fn sizes(&self, id: Id) -> Option<Vec<usize>> {
        self.items(id)?.iter().map(|&i| self.size(i)).collect()
    }

    pub(super) fn global(&self, id: Id) -> Option<&str> {
        match self.node(id) {
            Node::Global(name) => Some(name),
            _ => None,
        }
    }

    /// Reads a pickle.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut machine = Machine {
            rest: bytes,
            nodes: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        };
        let root = machine.run()?;
        Ok(Self { nodes: machine.nodes, root })
    }
}

struct Machine<'a> {
    rest: &'a [u8],
    nodes: Vec<Node>,
    stack: Vec<Id>,
    /// Lengths of the stack at its marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

/// The most values that a pickle may hold, and the longest name of a function.
const MOST_NODES: usize = 1 << 21;
const LONGEST_NAME: usize = 256;

const CUT: &str = "its pickle is cut short";
const EMPTY: &str = "its pickle takes a value where there is none";

impl<'a> Machine<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(CUT)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.take(N)?.try_into().map_err(|_| CUT.into())
    }

    fn u8(&mut self) -> Result<usize, String> {
        Ok(self.array::<1>()?[0].into())
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn len64(&mut self) -> Result<usize, String> {
        usize::try_from(u64::from_le_bytes(self.array()?)).map_err(|_| CUT.into())
    }

    /// Up to the end of the line.
    fn line(&mut self) -> Result<String, String> {
        let end = self.rest.iter().position(|&b| b == b'\n').ok_or(CUT)?;
        let line = self.take(end + 1)?;
        text(&line[..end])
    }

    fn push(&mut self, node: Node) {
        self.stack.push(self.nodes.len());
        self.nodes.push(node);
    }

    fn pop(&mut self) -> Result<Id, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(EMPTY.into());
        }
        self.stack.pop().ok_or_else(|| EMPTY.into())
    }

    fn top(&self) -> Result<Id, String> {
        self.stack.last().copied().ok_or_else(|| EMPTY.into())
    }

    /// Everything above the last mark.
    fn marked(&mut self) -> Result<Vec<Id>, String> {
        let from = self.marks.pop().ok_or("its pickle has no mark where one is needed")?;
        Ok(self.stack.split_off(from.min(self.stack.len())))
    }

    fn tuple(&mut self, len: usize) -> Result<(), String> {
        let mut items = (0..len).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        self.push(Node::Tuple(items));
        Ok(())
    }

    fn append(&mut self, more: Vec<Id>) -> Result<(), String> {
        let top = self.top()?;
        // Objects with lists of their own are of no interest.
        if let Node::List(items) = &mut self.nodes[top] {
            items.extend(more);
        }
        Ok(())
    }

    fn set(&mut self, more: &[Id]) -> Result<(), String> {
        let top = self.top()?;
        if let Node::Dict(items) = &mut self.nodes[top] {
            items.extend(more.chunks_exact(2).map(|pair| (pair[0], pair[1])));
        }
        Ok(())
    }

    fn call(&mut self) -> Result<(), String> {
        let arguments = self.pop()?;
        let function = self.pop()?;
        let ordered =
            matches!(&self.nodes[function], Node::Global(name) if name == "collections.OrderedDict");
        self.push(if ordered { Node::Dict(Vec::new()) } else { Node::Call(function, arguments) });
        Ok(())
    }

    /// Remembers the top of the stack under a number.
    fn remember(&mut self, number: u32) -> Result<(), String> {
        let top = self.top()?;
        self.memo.insert(number, top);
        Ok(())
    }

    fn recall(&mut self, number: u32) -> Result<(), String> {
        let id = *self.memo.get(&number).ok_or("its pickle refers to a value that is not there")?;
        self.stack.push(id);
        Ok(())
    }

    fn run(&mut self) -> Result<Id, String> {
        loop {
            if self.nodes.len() > MOST_NODES || self.stack.len() > MOST_NODES {
                return Err(format!("its pickle has more than {MOST_NODES} values"));
            }
            match self.array::<1>()?[0] {
                0x80 => match self.u8()? {
                    2..=5 => {}
                    other => return Err(format!("its pickle has protocol {other}; 2 to 5 are read")),
                },
                b'.' => return self.pop(),
                b'(' => self.marks.push(self.stack.len()),
                b'0' => drop(self.pop()?),
                b'1' => drop(self.marked()?),
                b'N' => self.push(Node::None),
                0x88 | 0x89 => self.push(Node::Bool),
                b'J' => {
                    let n = i32::from_le_bytes(self.array()?);
                    self.push(Node::Int(n.into()));
                }
                b'K' => {
                    let n = self.u8()?;
                    self.push(Node::Int(n as i64));
                }
                b'M' => {
                    let n = u16::from_le_bytes(self.array()?);
                    self.push(Node::Int(n.into()));
                }
                0x8a => {
                    let len = self.u8()?;
                    let bytes = self.take(len)?;
                    self.push(long(bytes));
                }
                b'G' => {
                    self.take(8)?;
                    self.push(Node::Float);
                }
                b'X' => {
                    let len = self.u32()? as usize;
                    self.text(len)?;
                }
                0x8c => {
                    let len = self.u8()?;
                    self.text(len)?;
                }
                0x8d => {
                    let len = self.len64()?;
                    self.text(len)?;
                }
                b'U' | b'C' => {
                    let len = self.u8()?;
                    self.bytes(len)?;
                }
                b'T' | b'B' => {
                    let len = self.u32()? as usize;
                    self.bytes(len)?;
                }
                0x8e => {
                    let len = self.len64()?;
                    self.bytes(len)?;
                }
                b')' => self.push(Node::Tuple(Vec::new())),
                0x85 => self.tuple(1)?,
                0x86 => self.tuple(2)?,
                0x87 => self.tuple(3)?,
                b't' => {
                    let items = self.marked()?;
                    self.push(Node::Tuple(items));
                }
                b']' => self.push(Node::List(Vec::new())),
                b'l' => {
                    let items = self.marked()?;
                    self.push(Node::List(items));
                }
                b'a' => {
                    let item = self.pop()?;
                    self.append(vec![item])?;
                }
                b'e' => {
                    let items = self.marked()?;
                    self.append(items)?;
                }
                b'}' => self.push(Node::Dict(Vec::new())),
                b's' => {
                    let value = self.pop()?;
                    let key = self.pop()?;
                    self.set(&[key, value])?;
                }
                b'u' => {
                    let items = self.marked()?;
                    self.set(&items)?;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.push(global(&module, &name)?);
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let node = match (&self.nodes[module], &self.nodes[name]) {
                        (Node::Text(module), Node::Text(name)) => global(module, name)?,
                        _ => return Err("its pickle names a function by what is no text".into()),
                    };
                    self.push(node);
                }
                b'R' | 0x81 => self.call()?,
                b'b' => drop(self.pop()?),
                b'Q' => {
                    let id = self.pop()?;
                    self.push(Node::Persistent(id));
                }
                b'q' => {
                    let number = self.u8()? as u32;
                    self.remember(number)?;
                }
                b'r' => {
                    let number = self.u32()?;
                    self.remember(number)?;
                }
                0x94 => {
                    let number = u32::try_from(self.memo.len()).map_err(|_| CUT)?;
                    self.remember(number)?;
                }
                b'h' => {
                    let number = self.u8()? as u32;
                    self.recall(number)?;
                }
                b'j' => {
                    let number = self.u32()?;
                    self.recall(number)?;
                }
                0x95 => drop(self.take(8)?),
                other => {
                    return Err(format!("its pickle has an instruction ({other:#04x}) that is not read"));
                }
            }
        }
    }

    fn text(&mut self, len: usize) -> Result<(), String> {
        let bytes = self.take(len)?;
        self.push(Node::Text(text(bytes)?));
        Ok(())
    }

    fn bytes(&mut self, len: usize) -> Result<(), String> {
        self.take(len)?;
        self.push(Node::Bytes);
        Ok(())
    }
}

fn global(module: &str, name: &str) -> Result<Node, String> {
    if module.len() + name.len() > LONGEST_NAME {
        return Err("its pickle names a function at too great a length".into());
    }
    Ok(Node::Global(format!("{module}.{name}")))
}

fn text(bytes: &[u8]) -> Result<String, String> {
    std::str::from_utf8(bytes).map(str::to_string).map_err(|_| "its pickle has text that is not UTF-8".into())
}

/// A number of any length, of which those beyond 64 bits are of no use here.
fn long(bytes: &[u8]) -> Node {
    if bytes.len() > 8 {
        return Node::Float;
    }
    let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
    let mut all = if negative { [0xff; 8] } else { [0; 8] };
    all[..bytes.len()].copy_from_slice(bytes);
    Node::Int(i64::from_le_bytes(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_values_are_read() {
        // {'a': [1, -2, 300, 70000, 2**40], 'b': (None, True, 1.5, (4,))}, protocol 2.
        let bytes = b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xffM,\x01Jp\x11\x01\x00\x8a\x06\x00\x00\x00\x00\x00\x01e\
            X\x01\x00\x00\x00bq\x03(N\x88G?\xf8\x00\x00\x00\x00\x00\x00K\x04\x85q\x04tq\x05u.";
        let p = Pickle::read(bytes).unwrap();
        let Node::Dict(items) = p.node(p.root) else { panic!("{:?}", p.node(p.root)) };
        assert_eq!(items.iter().map(|&(k, _)| p.text(k).unwrap()).collect::<Vec<_>>(), ["a", "b"]);
        let numbers: Vec<_> = p.items(items[0].1).unwrap().iter().map(|&i| p.node(i).clone()).collect();
        assert_eq!(numbers, [1, -2, 300, 70000, 1 << 40].map(Node::Int));
        let tuple = p.items(items[1].1).unwrap();
        assert_eq!((p.node(tuple[0]), p.node(tuple[1])), (&Node::None, &Node::Bool));
        assert_eq!(p.sizes(tuple[3]).unwrap(), [4]);
    }

    #[test]
    fn whatever_is_wrong_is_an_error() {
        for (bytes, cause) in [
            (&b""[..], "cut short"),
            (b"\x80\x09N.", "protocol 9"),
            (b"\x80\x02", "cut short"),
            (b".", "no value"),
            (b"t.", "no mark"),
            (b"h\x05.", "not there"),
            (b"X\xff\xff\xff\xffa.", "cut short"),
            (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff.", "cut short"),
            (b"X\x01\x00\x00\x00\xff.", "UTF-8"),
            (b"i.", "instruction (0x69)"),
            (b"ca\nb", "cut short"),
            (b"NN\x93.", "no text"),
            (b"R.", "none"),
            (b"q\x00.", "none"),
        ] {
            let said = Pickle::read(bytes).err().unwrap();
            assert!(said.contains(cause) || cause == "no value" && said == EMPTY, "{bytes:?}: {said}");
        }
        // Depth and sharing cost what the pickle is long.
        let deep = [b"N".to_vec(), b"\x85".repeat(1 << 20), b".".to_vec()].concat();
        assert!(Pickle::read(&deep).is_ok());
        let named = [
            b"X\x00\x00\x10\x00".to_vec(),
            b"a".repeat(1 << 20),
            b"q\x00".to_vec(),
            b"h\x00h\x00\x93".repeat(1 << 16),
            b".".to_vec(),
        ];
        assert!(Pickle::read(&named.concat()).err().unwrap().contains("too great a length"));
        let many = [b"N".repeat(MOST_NODES + 2), b".".to_vec()].concat();
        assert!(Pickle::read(&many).err().unwrap().contains("values"));
        let shared = [b"]q\x00".to_vec(), b"h\x00h\x00\x86q\x00".repeat(1 << 16), b".".to_vec()].concat();
        assert!(Pickle::read(&shared).is_ok());
    }
}
