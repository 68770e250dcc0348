//! The values that an algorithm keeps between steps.

use std::any::Any;
use std::fmt;

use crate::kernel::Scalar;

/// What an algorithm keeps between calls: counts, numbers, and the states of its parts.
///
/// The algorithms of this crate consist of *options* (plain values) and a *step*, a function of the
/// options and this state. Each algorithm defines what its numbers mean. The state is itself a
/// plain value, which can be cloned, compared, and (with the feature `serde`) saved and loaded. Two
/// states are equal if their numbers are equal; scratch memory is ignored.
///
/// # Examples
/// ```
/// use layerwise::state::State;
///
/// let mut state = State::<f64>::new();
/// state.counts.push(3);
/// state.values.push(vec![0.5, 1.0]);
/// let saved = state.clone();
/// *state.scratch() = vec![1.0_f64; 100];
/// assert_eq!(state, saved);
/// ```
#[derive(Debug, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "Vec<Node<T>>"))]
#[cfg_attr(
    feature = "serde",
    serde(bound(deserialize = "T: serde::Deserialize<'de>"))
)]
pub struct State<T> {
    /// Whole numbers, such as the number of calls.
    pub counts: Vec<u64>,
    /// Arrays of numbers, such as sums or moments.
    pub values: Vec<Vec<T>>,
    /// States of the algorithms that this one consists of.
    pub parts: Vec<State<T>>,
    scratch: Scratch,
}

/// A state without its parts, whose number is given: they follow it in a list. In such a list no
/// damaged file can nest states without limit.
#[cfg(feature = "serde")]
#[derive(serde::Deserialize)]
struct Node<T> {
    counts: Vec<u64>,
    values: Vec<Vec<T>>,
    parts: usize,
}

/// A [`Node`] of a state that is written.
#[cfg(feature = "serde")]
#[derive(serde::Serialize)]
struct NodeOf<'a, T> {
    counts: &'a [u64],
    values: &'a [Vec<T>],
    parts: usize,
}

/// The largest number of states within one another that is read.
#[cfg(feature = "serde")]
const MOST_NESTED: usize = 32;

#[cfg(feature = "serde")]
impl<T: serde::Serialize> serde::Serialize for State<T> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        fn list<'a, T>(own: &'a State<T>, nodes: &mut Vec<NodeOf<'a, T>>) {
            nodes.push(NodeOf {
                counts: &own.counts,
                values: &own.values,
                parts: own.parts.len(),
            });
            own.parts.iter().for_each(|part| list(part, nodes));
        }
        let mut nodes = Vec::new();
        list(self, &mut nodes);
        nodes.serialize(to)
    }
}

#[cfg(feature = "serde")]
impl<T> TryFrom<Vec<Node<T>>> for State<T> {
    type Error = String;

    fn try_from(nodes: Vec<Node<T>>) -> Result<Self, String> {
        // From the end: the parts of a state are the last that were made. Each with its depth.
        let mut made: Vec<(Self, usize)> = Vec::new();
        for node in nodes.into_iter().rev() {
            let rest = made.len().checked_sub(node.parts);
            let rest =
                rest.ok_or_else(|| format!("a state lacks some of its {} parts", node.parts))?;
            let own = made.split_off(rest).into_iter().rev();
            let (parts, depths): (Vec<_>, Vec<_>) = own.unzip();
            let depth = 1 + depths.into_iter().max().unwrap_or(0);
            if depth > MOST_NESTED {
                return Err(format!("states are nested more than {MOST_NESTED} deep"));
            }
            let state = Self {
                counts: node.counts,
                values: node.values,
                parts,
                scratch: Scratch::default(),
            };
            made.push((state, depth));
        }
        match (made.pop(), made.is_empty()) {
            (Some((state, _)), true) => Ok(state),
            _ => Err("a list of states is not one state with its parts".into()),
        }
    }
}

impl<T> Default for State<T> {
    fn default() -> Self {
        Self {
            counts: Vec::new(),
            values: Vec::new(),
            parts: Vec::new(),
            scratch: Scratch::default(),
        }
    }
}

impl<T: Clone> Clone for State<T> {
    fn clone(&self) -> Self {
        Self {
            counts: self.counts.clone(),
            values: self.values.clone(),
            parts: self.parts.clone(),
            scratch: Scratch::default(),
        }
    }

    /// Overwrites the numbers in place, and keeps the scratch memory.
    fn clone_from(&mut self, source: &Self) {
        self.counts.clone_from(&source.counts);
        self.values.clone_from(&source.values);
        self.parts.clone_from(&source.parts);
    }
}

impl<T: Scalar> State<T> {
    /// An empty state.
    pub fn new() -> Self {
        Self::default()
    }

    /// Memory of any type that is reused between calls. The first call creates it with
    /// `Default::default`, and so does a later call that requests another type. It is not part of
    /// the state: a clone starts without it.
    pub fn scratch<S: Default + Send + Sync + 'static>(&mut self) -> &mut S {
        self.split().1
    }

    /// Swaps the numbers of two states; each keeps its scratch memory.
    pub(crate) fn swap_numbers(&mut self, other: &mut Self) {
        std::mem::swap(&mut self.counts, &mut other.counts);
        std::mem::swap(&mut self.values, &mut other.values);
        std::mem::swap(&mut self.parts, &mut other.parts);
    }

    /// Whether this can be a later state of an algorithm that began with `start`: wherever `start`
    /// has arrays, this must have arrays of the same sizes.
    pub(crate) fn fits(&self, start: &Self) -> bool {
        let same = |own: usize, start: usize| start == 0 || own == start;
        let mut values = self.values.iter().zip(&start.values);
        let mut parts = self.parts.iter().zip(&start.parts);
        same(self.counts.len(), start.counts.len())
            && same(self.values.len(), start.values.len())
            && values.all(|(own, start)| same(own.len(), start.len()))
            && same(self.parts.len(), start.parts.len())
            && parts.all(|(own, start)| own.fits(start))
    }

    /// The largest of its counts, including those of its parts.
    pub(crate) fn largest_count(&self) -> u64 {
        let parts = self.parts.iter().map(Self::largest_count);
        self.counts.iter().copied().chain(parts).max().unwrap_or(0)
    }

    /// The number of counts and values it holds, including those of its parts.
    pub(crate) fn size(&self) -> usize {
        let own = self.counts.len() + self.values.iter().map(Vec::len).sum::<usize>();
        own + self.parts.iter().map(Self::size).sum::<usize>()
    }

    /// Borrows the counts, arrays and parts together with [`State::scratch`].
    pub fn split<S: Default + Send + Sync + 'static>(&mut self) -> (Numbers<'_, T>, &mut S) {
        let numbers = Numbers {
            counts: &mut self.counts,
            values: &mut self.values,
            parts: &mut self.parts,
        };
        (numbers, self.scratch.get())
    }
}

/// The numbers of a [`State`], borrowed together with its scratch memory.
#[derive(Debug)]
#[non_exhaustive]
pub struct Numbers<'a, T> {
    /// [`State::counts`].
    pub counts: &'a mut Vec<u64>,
    /// [`State::values`].
    pub values: &'a mut Vec<Vec<T>>,
    /// [`State::parts`].
    pub parts: &'a mut Vec<State<T>>,
}

/// Scratch memory: equal to any other.
#[derive(Default)]
struct Scratch(Option<Box<dyn Any + Send + Sync>>);

impl Scratch {
    fn get<S: Default + Send + Sync + 'static>(&mut self) -> &mut S {
        if !self.0.as_ref().is_some_and(|own| own.is::<S>()) {
            self.0 = Some(Box::<S>::default());
        }
        let own = self.0.as_mut().and_then(|own| own.downcast_mut());
        own.expect("it was just made")
    }
}

impl PartialEq for Scratch {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scratch")
    }
}
