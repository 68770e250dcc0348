//! Types that say which gradients an evaluation computes, so that only those can be read.

/// What an evaluation computes in addition to its value. Anything that is not requested is not
/// computed, and cannot be read.
///
/// | | ∂ℓ_t/∂θ_t | ∂ℓ_t/∂z_t (input) | ∂ℓ_t/∂z_{t+1} (target) | for a whole batch |
/// |---|---|---|---|---|
/// | [`Value`] | | | | E |
/// | [`Parameters`] | yes | | | ∂E/∂θ |
/// | [`Input`] | | yes | | |
/// | [`Target`] | | | yes | |
/// | [`Targets`] | | yes | yes | ∂E/∂z |
/// | [`All`] | yes | yes | yes | ∂E/∂θ and ∂E/∂z |
///
/// # Examples
/// Reading a gradient that was not requested does not compile:
/// ```compile_fail,E0599
/// use layerwise::energy::{LocalProblem, Value};
///
/// fn wrong(problem: LocalProblem<'_, f64>) {
///     let mut workspace = problem.workspace();
///     problem.evaluate(Value, &mut workspace).parameter_gradient();
/// }
/// ```
pub trait Wanted: sealed::Sealed + Copy {}

/// An evaluation that contains ∂/∂θ_t.
pub trait WithParameters: Wanted {}
/// An evaluation that contains the gradient in a layer's input z_t.
pub trait WithInput: Wanted {}
/// An evaluation that contains the gradient in a loss's target z_{t+1}.
pub trait WithTarget: Wanted {}

/// [`Wanted`] as a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ask {
    /// ∂ℓ_t/∂θ_t.
    pub(crate) parameters: bool,
    /// ∂ℓ_t/∂z_t, with z_t as the layer's input.
    pub(crate) input: bool,
    /// ∂ℓ_t/∂z_{t+1}, with z_{t+1} as the loss's target.
    pub(crate) target: bool,
}

impl Ask {
    pub(crate) const VALUE: Self = Self::new(false, false, false);
    pub(crate) const PARAMETERS: Self = Self::new(true, false, false);
    pub(crate) const TARGETS: Self = Self::new(false, true, true);
    pub(crate) const ALL: Self = Self::new(true, true, true);

    pub(crate) const fn new(parameters: bool, input: bool, target: bool) -> Self {
        Self {
            parameters,
            input,
            target,
        }
    }

    /// What layer t of `depth` computes for a whole batch; z_0 and z_T are not variables.
    pub(crate) fn of_layer(self, t: usize, depth: usize) -> Self {
        Self {
            input: self.input && t > 0,
            target: self.target && t + 1 < depth,
            ..self
        }
    }
}

pub(crate) mod sealed {
    use super::Ask;

    pub trait Sealed {
        #[allow(private_interfaces)]
        const ASK: Ask;
    }
}

macro_rules! wanted {
    ($(#[$doc:meta])* $name:ident, $parameters:literal $input:literal $target:literal, $($with:ident)*) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct $name;

        impl sealed::Sealed for $name {
            #[allow(private_interfaces)]
            const ASK: Ask = Ask::new($parameters, $input, $target);
        }

        impl Wanted for $name {}
        $(impl $with for $name {})*
    };
}

wanted!(/** The value alone. */ Value, false false false,);
wanted!(/** The value and the gradient in θ. */ Parameters, true false false, WithParameters);
wanted!(/** The value and the gradient in the layer's input. */ Input, false true false, WithInput);
wanted!(/** The value and the gradient in the loss's target. */ Target, false false true, WithTarget);
wanted!(/** The value and the gradients in z. */ Targets, false true true, WithInput WithTarget);
wanted!(/** The value and all gradients. */ All, true true true, WithParameters WithInput WithTarget);
