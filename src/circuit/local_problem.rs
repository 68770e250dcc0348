//! The loss of one layer, which depends on nothing but that layer.

use crate::circuit::workspace::LocalWorkspace;
use crate::kernel::{all_finite, scale, total};
use crate::layer::{Context, Layer, Point, parameter_count};
use crate::loss::{Loss, Pair};
use crate::{Error, Quantity, Scalar, Write};

/// Which gradients an evaluation is asked for; what is not asked for is not computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// ∂ℓ_t/∂θ_t.
    pub parameters: bool,
    /// ∂ℓ_t/∂z_t, z_t as the layer's input.
    pub input: bool,
    /// ∂ℓ_t/∂z_{t+1}, z_{t+1} as the loss's target.
    pub target: bool,
}

impl Wanted {
    /// All three gradients.
    pub const ALL: Self = Self {
        parameters: true,
        input: true,
        target: true,
    };
    /// The value alone.
    pub const NONE: Self = Self {
        parameters: false,
        input: false,
        target: false,
    };
}

/// The local problem of layer t,
///
/// ℓ_t(θ_t, z_t, z_{t+1}) = μ_{t+1} Σᵢ L_h(z_{t+1}ⁱ, f_t(z_tⁱ, θ_t)),
///
/// and for the last layer Σᵢ L(z_Tⁱ, f_{T−1}(z_{T−1}ⁱ, θ_{T−1})).
///
/// It borrows θ_t, z_t, z_{t+1}, the layer and the loss, and nothing else: E = Σ_t ℓ_t, and the T
/// problems can be evaluated at once, in any order, on any thread. All sums are over examples,
/// without averaging; μ is included in values and gradients.
///
/// # Examples
/// ```
/// use layerwise::{Activation, Dense, LocalProblem, SquaredError, Wanted};
///
/// let layer = Dense::new(2, 1, Activation::Identity)?;
/// let (weights, input, target) = ([1.0, 1.0, 0.5], [1.0, 2.0], [3.0]);
/// let problem = LocalProblem::new(&layer, &weights, &SquaredError, 2.0, &input, &target)?;
/// let mut workspace = problem.workspace();
/// let energy = problem.evaluate(Wanted::ALL, &mut workspace);
/// assert_eq!(energy, 2.0 * 0.5 * 0.5 * 0.5);
/// assert_eq!(workspace.parameter_gradient(), [1.0, 2.0, 1.0]);
/// assert_eq!(workspace.target_gradient(), [-1.0]);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug)]
pub struct LocalProblem<'a, T: Scalar> {
    pub(crate) layer: &'a dyn Layer<T>,
    pub(crate) parameters: &'a [T],
    pub(crate) loss: &'a dyn Loss<T>,
    pub(crate) weight: T,
    pub(crate) input: &'a [T],
    pub(crate) target: &'a [T],
    pub(crate) context: Context<'a>,
}

impl<T: Scalar> Clone for LocalProblem<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: Scalar> Copy for LocalProblem<'_, T> {}

/// A local problem's value and gradients, in memory of their own.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalGradients<T> {
    /// ℓ_t.
    pub energy: T,
    /// ∂ℓ_t/∂θ_t.
    pub parameters: Vec<T>,
    /// ∂ℓ_t/∂z_t, d_t × n column-major; empty if the layer is not differentiable in its input.
    pub input: Vec<T>,
    /// ∂ℓ_t/∂z_{t+1}, d_{t+1} × n column-major.
    pub target: Vec<T>,
}

impl<'a, T: Scalar> LocalProblem<'a, T> {
    /// A local problem on the caller's own arrays: `weight` is μ_{t+1}, `input` z_t (input_dim × n
    /// column-major), `target` z_{t+1} (output_dim × n).
    ///
    /// # Errors
    /// [`Error::Length`] or [`Error::ExampleCount`] for arrays that do not fit the layer,
    /// [`Error::NoExamples`], [`Error::InvalidOption`] for a weight that is not above 0 and finite,
    /// [`Error::NonFiniteData`], and what the layer and the loss say of their data.
    pub fn new(
        layer: &'a dyn Layer<T>,
        parameters: &'a [T],
        loss: &'a dyn Loss<T>,
        weight: T,
        input: &'a [T],
        target: &'a [T],
    ) -> Result<Self, Error> {
        crate::layer::validate(layer, 0)?;
        check_length("parameters", parameters, parameter_count(layer))?;
        let n = whole_columns("input", input, layer.input_dim())?;
        let m = whole_columns("target", target, layer.output_dim())?;
        if n != m {
            return Err(Error::ExampleCount {
                inputs: n,
                targets: m,
            });
        }
        if n == 0 {
            return Err(Error::NoExamples {
                operation: "a local problem",
            });
        }
        check_weight(weight)?;
        check_finite(Quantity::Parameter, 0, parameters.len(), parameters)?;
        check_finite(Quantity::Input, 0, layer.input_dim(), input)?;
        check_finite(Quantity::Target, 1, layer.output_dim(), target)?;
        layer.check_input(input)?;
        loss.check_target(layer.output_dim(), target)?;
        Ok(Self {
            layer,
            parameters,
            loss,
            weight,
            input,
            target,
            context: Context::inference(0, 0),
        })
    }

    /// The same problem in another context (for stochastic layers).
    pub fn in_context(self, context: Context<'a>) -> Self {
        Self { context, ..self }
    }

    /// t, the number of the layer.
    pub fn layer(&self) -> usize {
        self.context.layer
    }

    /// Number of examples n.
    pub fn examples(&self) -> usize {
        self.input.len() / self.layer.input_dim()
    }

    /// Memory in which this problem is evaluated; any other can use it too, and only a larger one
    /// makes it grow.
    pub fn workspace(&self) -> LocalWorkspace<T> {
        let mut workspace = LocalWorkspace::new();
        self.fit(&mut workspace);
        workspace
    }

    fn fit(&self, workspace: &mut LocalWorkspace<T>) {
        workspace.fit(
            self.layer,
            self.loss,
            self.parameters.len(),
            self.examples(),
        );
    }

    /// ẑ_{t+1} = f_t(z_t, θ_t), into the workspace, ready for derivatives.
    pub fn predict(&self, workspace: &mut LocalWorkspace<T>) {
        self.fit(workspace);
        workspace.forward(self.layer, &self.context, self.parameters, self.input);
    }

    /// ℓ_t and the wanted gradients, for a workspace whose prediction is current.
    ///
    /// A current prediction came from [`LocalProblem::predict`] with the same θ_t and z_t; the
    /// target z_{t+1} may have moved since.
    pub fn differentiate(&self, wanted: Wanted, workspace: &mut LocalWorkspace<T>) -> T {
        let w = workspace;
        if w.prediction.len() != self.target.len() || w.d_input.len() != self.input.len() {
            // The workspace of another problem has no prediction of this one.
            self.predict(w);
        }
        let pair = Pair::new(self.layer.output_dim(), self.target, &w.prediction);
        let needs_cotangent = wanted.parameters || wanted.input;
        self.loss.evaluate(
            &pair,
            &mut w.energies,
            Write::set(wanted.target.then_some(&mut w.d_target[..])),
            Write::set(needs_cotangent.then_some(&mut w.cotangent[..])),
            &mut w.work,
        );
        if self.weight != T::one() {
            scale(&mut w.energies, self.weight);
            if wanted.target {
                scale(&mut w.d_target, self.weight);
            }
            if needs_cotangent {
                scale(&mut w.cotangent, self.weight);
            }
        }
        w.energy = total(&w.energies);
        if needs_cotangent {
            let wants_input = wanted.input && self.layer.input_differentiable();
            let at = Point {
                context: self.context,
                parameters: self.parameters,
                input: self.input,
                output: &w.prediction,
                tape: &w.tape,
            };
            self.layer.vjp(
                &at,
                &w.cotangent,
                Write::set(wants_input.then_some(&mut w.d_input[..])),
                Write::set(wanted.parameters.then_some(&mut w.d_parameters[..])),
                &mut w.work,
            );
        }
        w.energy
    }

    /// ℓ_t and the wanted gradients: [`LocalProblem::predict`], then
    /// [`LocalProblem::differentiate`]. The results stand in the workspace.
    pub fn evaluate(&self, wanted: Wanted, workspace: &mut LocalWorkspace<T>) -> T {
        self.predict(workspace);
        self.differentiate(wanted, workspace)
    }

    /// ℓ_t.
    pub fn energy(&self) -> T {
        self.evaluate(Wanted::NONE, &mut self.workspace())
    }

    /// ℓ_t and its three gradients, in new memory.
    pub fn gradients(&self) -> LocalGradients<T> {
        let mut w = self.workspace();
        let energy = self.evaluate(Wanted::ALL, &mut w);
        let input = if self.layer.input_differentiable() {
            w.d_input
        } else {
            Vec::new()
        };
        LocalGradients {
            energy,
            parameters: w.d_parameters,
            input,
            target: w.d_target,
        }
    }

    /// `tangent ← (∂f/∂z) v_input + (∂f/∂θ) v_parameters` at a workspace whose prediction is
    /// current; a missing direction is zero.
    ///
    /// # Errors
    /// [`Error::Length`] for a slice that does not fit.
    pub fn jvp(
        &self,
        v_input: Option<&[T]>,
        v_parameters: Option<&[T]>,
        tangent: &mut [T],
        workspace: &mut LocalWorkspace<T>,
    ) -> Result<(), Error> {
        if let Some(v) = v_input {
            check_length("v_input", v, self.input.len())?;
        }
        if let Some(v) = v_parameters {
            check_length("v_parameters", v, self.parameters.len())?;
        }
        check_length("tangent", tangent, self.target.len())?;
        check_length("prediction", &workspace.prediction, self.target.len())?;
        let LocalWorkspace {
            prediction,
            tape,
            work,
            ..
        } = workspace;
        let at = self.point(prediction, tape);
        self.layer.jvp(&at, v_input, v_parameters, tangent, work);
        Ok(())
    }

    /// `d_input ← (∂f/∂z)ᵀ g` and `d_parameters ← (∂f/∂θ)ᵀ g` at a workspace whose prediction is
    /// current.
    ///
    /// # Errors
    /// [`Error::Length`] for a slice that does not fit.
    pub fn vjp(
        &self,
        cotangent: &[T],
        d_input: Write<'_, T>,
        d_parameters: Write<'_, T>,
        workspace: &mut LocalWorkspace<T>,
    ) -> Result<(), Error> {
        check_length("cotangent", cotangent, self.target.len())?;
        check_length("prediction", &workspace.prediction, self.target.len())?;
        for (what, write, expected) in [
            ("d_input", &d_input, self.input.len()),
            ("d_parameters", &d_parameters, self.parameters.len()),
        ] {
            if !write.is_skip() && write.len() != expected {
                return Err(Error::Length {
                    what: what.into(),
                    expected,
                    found: write.len(),
                });
            }
        }
        let LocalWorkspace {
            prediction,
            tape,
            work,
            ..
        } = workspace;
        let at = self.point(prediction, tape);
        self.layer.vjp(&at, cotangent, d_input, d_parameters, work);
        Ok(())
    }

    fn point<'b>(&self, output: &'b [T], tape: &'b [T]) -> Point<'b, T>
    where
        'a: 'b,
    {
        Point {
            context: self.context,
            parameters: self.parameters,
            input: self.input,
            output,
            tape,
        }
    }
}

pub(crate) fn check_length<T>(what: &str, values: &[T], expected: usize) -> Result<(), Error> {
    if values.len() == expected {
        return Ok(());
    }
    Err(Error::Length {
        what: what.into(),
        expected,
        found: values.len(),
    })
}

fn whole_columns<T>(what: &str, values: &[T], dim: usize) -> Result<usize, Error> {
    let columns = values.len() / dim;
    check_length(what, values, values.len().div_ceil(dim) * dim)?;
    Ok(columns)
}

pub(crate) fn check_weight<T: Scalar>(weight: T) -> Result<(), Error> {
    if weight.is_finite() && weight > T::zero() {
        return Ok(());
    }
    Err(Error::InvalidOption {
        option: "penalty μ",
        value: weight.as_f64(),
        allowed: "above 0 and finite",
    })
}

/// Finds the first value that is not finite, in a matrix of `rows` rows.
pub(crate) fn check_finite<T: Scalar>(
    quantity: Quantity,
    layer: usize,
    rows: usize,
    values: &[T],
) -> Result<(), Error> {
    if all_finite(values) {
        return Ok(());
    }
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(i) => Err(Error::NonFiniteData {
            quantity,
            layer,
            row: i % rows,
            column: i / rows,
            value: values[i].as_f64(),
        }),
    }
}
