//! The report of a diagnosis, as data and as a table.

use std::fmt;

use crate::check::check_result;
use crate::error::{Error, Quantity};
use crate::kernel::Scalar;

/// The report of [`Diagnostics`](crate::diagnostics::Diagnostics) on a circuit and its examples.
///
/// Energies and parameter gradients are **sums** over the examples, with their weights. Gaps,
/// target gradients and staleness are root mean squares over the examples, without weights, except
/// that examples of weight 0 are left out. `None` means that a value was not requested or is not
/// defined.
///
/// `Display` prints a table with one line per layer and one line for the whole circuit. A last line
/// has the composed loss, the accuracy and the number of examples. Before it come up to three lines: the cosines of
/// the quarters, unless these are single layers; f̄, if it is defined; and the share of the error, if it was
/// requested. With the feature `serde` the report can be serialised.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct DiagnosticReport<T> {
    /// Number of examples, including those of weight 0.
    pub examples: usize,
    /// One entry per layer f_t, t = 0, …, T−1.
    pub layers: Vec<LayerDiagnostics<T>>,
    /// E = Σ_t ℓ_t, as in [`DecoupledCircuit::energy`](crate::decoupled::DecoupledCircuit::energy).
    pub energy: T,
    /// Σᵢ wᵢ L(z_Tⁱ, ẑ_Tⁱ) of the plain forward pass, without regularisers, as in
    /// [`DecoupledCircuit::composed_loss`](crate::decoupled::DecoupledCircuit::composed_loss). A
    /// low energy does not mean that the network works; check this loss and the gap.
    pub composed_loss: T,
    /// Fraction of the examples (without weights) whose largest output of the plain forward pass is
    /// the one of their class, or of their positions under a loss over positions; `None` unless classes
    /// were given.
    pub accuracy: Option<f64>,
    /// (Σ_t gap_t²)^½ over the hidden layers.
    pub gap: T,
    /// Gradients of all θ_t together.
    pub parameters: GradientDiagnostics<T>,
    /// Gradients of θ by quarters of the layers, from the input to the output; fewer parts in a circuit of
    /// fewer layers. The cosine of all θ_t together hides the input side, whose gradients are small and
    /// agree with backprop's last.
    pub quarters: Vec<GradientDiagnostics<T>>,
    /// f̄, the share of the way from the plain forward pass to the equilibrium of a Z-step that the targets
    /// have gone, weighted by backprop's errors δ_t = ∂L/∂z_t:
    ///
    /// ```math
    /// f̄ = 1 - (∑_t ⟨δ_t, ∂E/∂c_t⟩/μ_t) / (∑_t ‖δ_t‖²/μ_t)
    /// ```
    ///
    /// with ∂E/∂c_t at the targets, c_t = z_t − ẑ_t, where later c stay and later z follow
    /// ([`ErrorDescent`](crate::target_solver::ErrorDescent)). It is 0 at the forward pass, where these
    /// gradients are the δ_t and a first step's gradients in θ are backprop's to first order, and 1 where
    /// E is stationary in z. (Regularised targets are pulled at the forward pass too: there it is not 0.) Sums are
    /// over the examples, with their weights, and leave out multipliers. `None` without backprop, if no error
    /// reaches a hidden layer, or if the errors are so small that the quotient overflows.
    pub relaxation: Option<f64>,
    /// (Σᵢ Σ_t ‖∂E/∂z_tⁱ‖² / wᵢ² / n)^½.
    pub target_gradient: T,
    /// For the whole Gauss-Newton matrix in z; its bound is block Gershgorin's.
    pub curvature: Option<CurvatureDiagnostics<T>>,
    /// What the equilibrium of a Z-step leaves of the error; also `None` if a product overflows.
    pub error_share: Option<ErrorShareDiagnostics<T>>,
}

/// One layer f_t with its local problem ℓ_t.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct LayerDiagnostics<T> {
    /// ℓ_t, including μ_{t+1}, weights and regularisers.
    pub energy: T,
    /// Gradients of θ_t.
    pub parameters: GradientDiagnostics<T>,
    /// The layer's auxiliary target z_{t+1}; `None` for the last layer, whose target is data.
    pub target: Option<TargetDiagnostics<T>>,
}

/// A parameter gradient compared with backprop's.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct GradientDiagnostics<T> {
    /// ‖∂E/∂θ‖.
    pub norm: T,
    /// Cosine of the angle between ∂E/∂θ and backprop's gradient, in −1..=1; `None` if either is
    /// zero. Backprop's gradient is that of the composed objective with its regularisers
    /// ([`Problem::backprop`](crate::energy::Problem::backprop)).
    pub cosine: Option<T>,
    /// ‖∂E/∂θ‖ divided by the norm of backprop's gradient; `None` if the latter is zero.
    pub norm_ratio: Option<T>,
}

/// The auxiliary targets z_{t+1} that layer t is trained on.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct TargetDiagnostics<T> {
    /// (Σᵢ ‖z_{t+1}ⁱ − ẑ_{t+1}ⁱ‖² / n)^½, as in
    /// [`DecoupledCircuit::gap`](crate::decoupled::DecoupledCircuit::gap).
    pub gap: T,
    /// (Σᵢ ‖gⁱ‖² / n)^½ with gⁱ = ∂E/∂z_{t+1}ⁱ / wᵢ.
    pub gradient: T,
    /// (Σᵢ sᵢ² / n)^½ with sᵢ = ‖gⁱ‖² / ‖H gⁱ‖, where H is the block of z_{t+1} in the example's
    /// Gauss-Newton matrix, and sᵢ = 0 where gⁱ = 0. `None` if H gⁱ = 0 but gⁱ ≠ 0 for any example.
    ///
    /// This is a lower bound on the distance from z_{t+1} to the minimum z* of E's Gauss-Newton
    /// model in z_{t+1}, at the current θ and other targets: z − z* = H⁻¹ g, and ‖g‖² = (H g)·(H⁻¹
    /// g) ≤ ‖H g‖ ‖z − z*‖. It is never less than ‖g‖/λ_max(H), and exact if g is an eigenvector of
    /// H, for example if the layer has width 1. It is 0 for targets at rest. A large value means
    /// that θ has moved away from the targets, or that the Z-steps have not converged.
    pub staleness: Option<T>,
    /// For the block of z_{t+1}.
    pub curvature: Option<CurvatureDiagnostics<T>>,
}

/// The extreme eigenvalues λ_max and λ_min of a Gauss-Newton matrix in z, without weights: the maximum
/// and the minimum over all examples. Synchronous gradient steps are stable if their size is below
/// 2/λ_max of the whole matrix; sweeps, if it is below 2/λ_max of each block. Near the minimum over z,
/// gradient steps need about κ = λ_max/λ_min steps for each factor e of the distance, conjugate gradients
/// about √κ/2.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct CurvatureDiagnostics<T> {
    /// Lanczos estimate, at most λ_max up to rounding; `None` if a product overflows.
    pub estimate: Option<T>,
    /// Lanczos estimate of λ_min, at least λ_min up to rounding; `None` if a product overflows. With few
    /// iterations it can be far above.
    pub smallest: Option<T>,
    /// The largest κ = λ_max/λ_min of any example, from its two estimates, so from below; `None` if
    /// λ_min's is not above 0.
    pub condition: Option<T>,
    /// An upper bound on λ_max for every example, as used by
    /// [`StepSize::Bounded`](crate::target_solver::StepSize::Bounded); `None` if a layer or a loss
    /// gives no bound.
    pub bound: Option<T>,
}

/// The share of the output error that survives the equilibrium of a Z-step from the plain forward pass,
/// in the Gauss-Newton model: for all examples together (the roots of the ratios of sums over them, with
/// their weights), and 1 where there is no error.
///
/// With r = ∂L/∂ẑ_T at the forward pass, C the curvature of L there (I for squared error; the whole
/// Hessian for the cross entropies; else what [`Loss::curvature`](crate::loss::Loss::curvature) says) and
/// P_t = J_{T−1} ⋯ J_t, the error is then S⁻¹ r, S = I + C Σ_t P_t P_tᵀ/μ_t. On a linear circuit with
/// squared L this is exact. The closer a share is to 0, the less θ learns from a Z-step that is solved
/// well; [`ErrorShare`](crate::training::ErrorShare) sets μ by `hidden`.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ErrorShareDiagnostics<T> {
    /// ‖S⁻¹r‖/‖r‖: of the output error.
    pub output: T,
    /// (Σ_t ‖P_tᵀ S⁻¹ r‖²/μ_t)^½ / (Σ_t ‖P_tᵀ r‖²/μ_t)^½: of backprop's errors δ_t = P_tᵀ r, from which the
    /// layers below the last learn.
    pub hidden: T,
}

impl<T: Scalar> DiagnosticReport<T> {
    /// Checks that norms and totals are finite.
    pub(super) fn check(&self) -> Result<(), Error> {
        for (t, layer) in self.layers.iter().enumerate() {
            check_result(Quantity::ParameterGradient, t, &[layer.parameters.norm])?;
            if let Some(target) = &layer.target {
                check_result(Quantity::TargetGradient, t + 1, &[target.gradient])?;
                check_result(Quantity::Prediction, t + 1, &[target.gap])?;
            }
        }
        let last = self.layers.len() - 1;
        check_result(Quantity::Energy, last, &[self.energy])?;
        check_result(Quantity::ParameterGradient, last, &[self.parameters.norm])?;
        check_result(Quantity::TargetGradient, last, &[self.target_gradient])?;
        check_result(Quantity::Prediction, last, &[self.gap])
    }
}

/// Width of a column; the next constant is that of the first column.
const WIDTH: usize = 10;
const FIRST: usize = 5;

const TITLES: [&str; 9] = [
    "E",
    "gap",
    "‖∂E/∂θ‖",
    "cos BP",
    "ratio BP",
    "‖∂E/∂z‖",
    "staleness",
    "λ_max ≥",
    "λ_max ≤",
];

impl<T: Scalar> fmt::Display for DiagnosticReport<T> {
    /// A table of the fields. The values of z in line t are those of the layer's target z_{t+1}.
    /// `-` stands for `None`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<FIRST$}", "layer")?;
        for title in TITLES {
            write!(f, " {title:>WIDTH$}")?;
        }
        writeln!(f)?;
        for (t, layer) in self.layers.iter().enumerate() {
            let target = layer.target.as_ref();
            let numbers = [
                Some(layer.energy),
                target.map(|own| own.gap),
                target.map(|own| own.gradient),
                target.and_then(|own| own.staleness),
            ];
            let curvature = target.and_then(|own| own.curvature);
            line(f, &t.to_string(), &layer.parameters, numbers, curvature)?;
        }
        let (energy, gap, gradient) = (self.energy, self.gap, self.target_gradient);
        let numbers = [Some(energy), Some(gap), Some(gradient), None];
        line(f, "all", &self.parameters, numbers, self.curvature)?;
        if self.layers.len() > self.quarters.len() {
            let cosine = |own: &GradientDiagnostics<T>| match own.cosine {
                Some(cosine) => format!("{:.4}", cosine.as_f64()),
                None => "-".to_owned(),
            };
            let cosines: Vec<String> = self.quarters.iter().map(cosine).collect();
            let cosines = cosines.join(", ");
            writeln!(
                f,
                "cos BP by quarters of the layers, input first: {cosines}"
            )?;
        }
        if let Some(relaxation) = self.relaxation {
            let way = "of the way from the forward pass to the equilibrium of a Z-step";
            writeln!(f, "targets: {:.1} % {way}", 100.0 * relaxation)?;
        }
        if let Some(share) = self.error_share {
            let [output, hidden] = [share.output, share.hidden].map(|share| 100.0 * share.as_f64());
            write!(
                f,
                "a solved Z-step leaves {output:.1} % of the output error, "
            )?;
            writeln!(f, "{hidden:.1} % of backprop's errors")?;
        }
        let loss = self.composed_loss.as_f64();
        let mean = loss / self.examples as f64;
        write!(f, "composed loss {loss:.3e} ({mean:.5} per example)")?;
        if let Some(accuracy) = self.accuracy {
            write!(f, ", accuracy {:.2} %", 100.0 * accuracy)?;
        }
        write!(f, ", {} examples", self.examples)
    }
}

fn line<T: Scalar>(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    parameters: &GradientDiagnostics<T>,
    [energy, gap, gradient, staleness]: [Option<T>; 4],
    curvature: Option<CurvatureDiagnostics<T>>,
) -> fmt::Result {
    write!(f, "{name:>FIRST$}")?;
    let cosine = parameters
        .cosine
        .map(|cosine| format!("{:.4}", cosine.as_f64()));
    let number = |value: Option<T>| value.map(|value| format!("{:.3e}", value.as_f64()));
    for cell in [
        number(energy),
        number(gap),
        number(Some(parameters.norm)),
        cosine,
        number(parameters.norm_ratio),
        number(gradient),
        number(staleness),
        number(curvature.and_then(|own| own.estimate)),
        number(curvature.and_then(|own| own.bound)),
    ] {
        write!(f, " {:>WIDTH$}", cell.as_deref().unwrap_or("-"))?;
    }
    writeln!(f)
}
