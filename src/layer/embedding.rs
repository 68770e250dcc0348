//! Learned vectors for tokens.

use rand::Rng;

use super::{Context, Layer, ParameterGroup, Point, Scratch, Shape, check_dimension};
use crate::description::Description;
use crate::error::Error;
use crate::init::Initializer;
use crate::kernel::{PLAIN_TERMS, Scalar, Write, add_to_halves};

/// A learned vector for every token: the input is a sequence of `length` whole numbers (token ids, as
/// scalars) below the size of the vocabulary, and column p of the output is column z_p of a table.
///
/// ```math
/// Ẑ = \big( V_{z_1}, …, V_{z_{length}} \big), \qquad V: dim × vocabulary
/// ```
///
/// The output has the shape `[dim, length]`. The layer has no derivative in its input, so it must
/// be the first of a circuit, or of a [`Sequential`](super::Sequential) that comes first. There is no
/// curvature bound, and none is needed there. In `f32`, whole numbers are exact up to 2²⁴.
///
/// Parameters: "table" (dim × vocabulary, column-major: the values of a token are next to one another,
/// as in a row of PyTorch's `weight`), initially N(0, 1) and without weight decay, which would shrink
/// the vectors of rare tokens. The gradient of a token's vector is a sum over all places where the
/// token occurs.
///
/// # Examples
/// ```
/// use layerwise::Circuit;
/// use layerwise::layer::Embedding;
/// use layerwise::nalgebra::DMatrix;
///
/// let circuit = Circuit::<f64>::builder().layer(Embedding::new(5, 2, 3)?).build()?;
/// let tokens = DMatrix::from_column_slice(3, 1, &[4.0, 0.0, 4.0]);
/// let output = circuit.predict(&tokens)?;
/// assert_eq!(output.rows(0, 2), output.rows(4, 2));
/// let told = circuit.predict(&tokens.add_scalar(1.0)).unwrap_err().to_string();
/// assert!(told.contains("value 0 is 5, but a token of this vocabulary is a whole number from 0 to 4"));
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    vocabulary: usize,
    dim: usize,
    length: usize,
    table: Initializer,
}

impl Embedding {
    /// A layer for sequences of `length` tokens, which gives vectors of `dim` values.
    ///
    /// # Errors
    /// [`Error::ZeroDimension`].
    pub fn new(vocabulary: usize, dim: usize, length: usize) -> Result<Self, Error> {
        check_dimension("the vocabulary of an embedding", vocabulary)?;
        check_dimension("the dimension of an embedding", dim)?;
        check_dimension("the length of an embedding", length)?;
        Ok(Self {
            vocabulary,
            dim,
            length,
            table: Initializer::lecun_normal(),
        })
    }

    /// Sets the initializer of the table. The vector of each token is drawn as a dim × 1 matrix, since
    /// one token is read at a time: a scaling by fan-in gives every value the variance `scale`.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for an option of the initializer that is out of range.
    pub fn with_table(mut self, initializer: Initializer) -> Result<Self, Error> {
        self.table = initializer.validate()?;
        Ok(self)
    }

    pub(crate) fn described(own: &Description) -> Result<Self, Error> {
        let [vocabulary, dim, length] = ["vocabulary", "dim", "length"].map(|name| own.count(name));
        Self::new(vocabulary?, dim?, length?)?
            .with_table(Initializer::described(own.part("table")?)?)
    }

    /// What is wrong with a token.
    fn refuse<T: Scalar>(&self, place: usize, token: T) -> Error {
        let (value, last) = (token.as_f64(), self.vocabulary - 1);
        Error::InputDomain {
            column: place / self.length,
            reason: format!(
                "value {} is {value}, but a token of this vocabulary is a whole number from 0 to {last}",
                place % self.length
            ),
        }
    }

    /// The place of a token's vector in the table. Tokens have been checked; any other number is also
    /// read as some token, so that nothing panics.
    fn place<T: Scalar>(&self, token: T) -> std::ops::Range<usize> {
        let token = (token.as_f64() as usize).min(self.vocabulary - 1);
        token * self.dim..(token + 1) * self.dim
    }

    /// Work values for the gradient of a batch with this many tokens, which may all be the same.
    fn low_halves(&self, tokens: usize) -> usize {
        match tokens > PLAIN_TERMS {
            true => self.dim.saturating_mul(self.vocabulary),
            false => 0,
        }
    }

    /// `output` ← the vectors of the tokens.
    fn look_up<T: Scalar>(&self, table: &[T], tokens: &[T], output: &mut [T]) {
        for (&token, to) in tokens.iter().zip(output.chunks_exact_mut(self.dim)) {
            to.copy_from_slice(&table[self.place(token)]);
        }
    }
}

impl<T: Scalar> Layer<T> for Embedding {
    fn input_shape(&self) -> Shape {
        self.length.into()
    }

    fn output_shape(&self) -> Shape {
        [self.dim, self.length].into()
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        ParameterGroup::tile([ParameterGroup::new("table", [self.dim, self.vocabulary])])
    }

    fn initialize(&self, parameters: &mut [T], rng: &mut dyn Rng) {
        for vector in parameters.chunks_exact_mut(self.dim) {
            self.table.fill(vector, self.dim, 1, rng);
        }
    }

    fn scratch(&self, batch: usize) -> Scratch {
        let tokens = self.length.saturating_mul(batch);
        Scratch::new(0, self.low_halves(tokens))
    }

    fn cost(&self) -> Option<usize> {
        Some(self.dim.saturating_mul(self.length))
    }

    fn check_input(&self, input: &[T]) -> Result<(), Error> {
        let known = |token: T| {
            let token = token.as_f64();
            token >= 0.0 && token < self.vocabulary as f64 && token.fract() == 0.0
        };
        match input.iter().position(|&token| !known(token)) {
            Some(place) => Err(self.refuse(place, input[place])),
            None => Ok(()),
        }
    }

    fn input_differentiable(&self) -> bool {
        false
    }

    fn forward(
        &self,
        _context: &Context<'_>,
        parameters: &[T],
        input: &[T],
        output: &mut [T],
        _tape: Option<&mut [T]>,
        _work: &mut [T],
    ) {
        self.look_up(parameters, input, output);
    }

    fn vjp(
        &self,
        at: &Point<'_, T>,
        cotangent: &[T],
        _d_input: Write<'_, T>,
        d_parameters: Write<'_, T>,
        work: &mut [T],
    ) {
        let Some(d) = d_parameters.accumulate() else {
            return;
        };
        let low = &mut work[..self.low_halves(at.input.len())];
        low.fill(T::zero());
        for (&token, u) in at.input.iter().zip(cotangent.chunks_exact(self.dim)) {
            let place = self.place(token);
            let vector = &mut d[place.clone()];
            match low.is_empty() {
                true => vector.iter_mut().zip(u).for_each(|(d, &u)| *d += u),
                false => add_to_halves(vector, &mut low[place], u),
            }
        }
    }

    fn jvp(
        &self,
        at: &Point<'_, T>,
        _v_input: Option<&[T]>,
        v_parameters: Option<&[T]>,
        tangent: &mut [T],
        _work: &mut [T],
    ) {
        match v_parameters {
            Some(v) => self.look_up(v, at.input, tangent),
            None => tangent.fill(T::zero()),
        }
    }

    fn description(&self) -> Option<Description> {
        let own = Description::new("Embedding")
            .with("vocabulary", self.vocabulary)
            .with("dim", self.dim)
            .with("length", self.length);
        Some(own.with("table", self.table.description()))
    }
}
