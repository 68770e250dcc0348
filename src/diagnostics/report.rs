//! What a diagnosis reports, as data and as a table.

use std::fmt;

use crate::kernel::Scalar;

/// One call's diagnosis of a circuit on its examples ([`Diagnostics`](crate::diagnostics::Diagnostics)).
///
/// Energies and parameter gradients are **sums** over the examples, weights included; gaps, target
/// gradients and staleness are root mean squares over the examples, as every example has them by
/// itself: without its weight. `None` is what was not asked for, or what is not defined.
///
/// `Display` prints a table: a line per layer, the line of the whole circuit, and one with the composed
/// loss, the accuracy and the number of examples. With the feature `serde` it is a value to keep.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct DiagnosticReport<T> {
    /// Number of examples n.
    pub examples: usize,
    /// One per f_t, t = 0, …, T−1.
    pub layers: Vec<LayerDiagnostics<T>>,
    /// E = Σ_t ℓ_t: as [`DecoupledCircuit::energy`](crate::decoupled::DecoupledCircuit::energy).
    pub energy: T,
    /// Σᵢ wᵢ L(z_Tⁱ, ẑ_Tⁱ) of the plain forward pass, without regularisers: as
    /// [`DecoupledCircuit::composed_loss`](crate::decoupled::DecoupledCircuit::composed_loss). Low energy is not
    /// a working network: look at this and the gap.
    pub composed_loss: T,
    /// Share of the examples, without weights, whose largest output of the plain forward pass is that
    /// of their class; `None` unless classes were given.
    pub accuracy: Option<f64>,
    /// (Σ_t gap_t²)^½ over the hidden layers.
    pub gap: T,
    /// Gradients of all θ together.
    pub parameters: GradientDiagnostics<T>,
    /// (Σᵢ Σ_t ‖∂E/∂z_tⁱ‖² / wᵢ² / n)^½.
    pub target_gradient: T,
    /// Of the whole Gauss-Newton matrix in z; its bound is block Gershgorin's.
    pub curvature: Option<CurvatureDiagnostics<T>>,
}

/// One layer f_t with its local problem ℓ_t.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct LayerDiagnostics<T> {
    /// ℓ_t, μ_{t+1}, weights and regularisers included.
    pub energy: T,
    /// Gradients of θ_t.
    pub parameters: GradientDiagnostics<T>,
    /// The layer's auxiliary target z_{t+1}; `None` for the last layer, whose target is given.
    pub target: Option<TargetDiagnostics<T>>,
}

/// A parameter gradient beside backprop's.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct GradientDiagnostics<T> {
    /// ‖∂E/∂θ‖.
    pub norm: T,
    /// Cosine of ∂E/∂θ to backprop's gradient, that of the composed objective with its regularisers
    /// ([`Problem::backprop`](crate::energy::Problem::backprop)), in −1..=1; `None` if either is zero.
    pub cosine: Option<T>,
    /// ‖∂E/∂θ‖ / ‖backprop's‖; `None` if backprop's is zero.
    pub norm_ratio: Option<T>,
}

/// The auxiliary targets z_{t+1} that layer t is trained on.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct TargetDiagnostics<T> {
    /// (Σᵢ ‖z_{t+1}ⁱ − ẑ_{t+1}ⁱ‖² / n)^½: as [`DecoupledCircuit::gap`](crate::decoupled::DecoupledCircuit::gap).
    pub gap: T,
    /// (Σᵢ ‖gⁱ‖² / n)^½ with gⁱ = ∂E/∂z_{t+1}ⁱ / wᵢ.
    pub gradient: T,
    /// (Σᵢ sᵢ² / n)^½ with sᵢ = ‖gⁱ‖² / ‖H gⁱ‖, H being z_{t+1}'s own block of the example's
    /// Gauss-Newton matrix, and sᵢ = 0 where gⁱ = 0; `None` where H gⁱ = 0 and gⁱ is not, for any
    /// example.
    ///
    /// It is how far, at least, z_{t+1} stands from where its E, as Gauss-Newton models it, is least
    /// at the present θ with the other targets as they are: there z − z* = H⁻¹ g, and
    /// ‖g‖² = (H g)·(H⁻¹ g) ≤ ‖H g‖ ‖z − z*‖. Never less than ‖g‖/λ_max(H), and exact if g is an
    /// eigenvector, as for a width of 1. 0 for targets at rest; it grows as θ moves away from
    /// them, or shows that the Z-steps did not come to rest.
    pub staleness: Option<T>,
    /// Of z_{t+1}'s own block.
    pub curvature: Option<CurvatureDiagnostics<T>>,
}

/// The largest eigenvalue λ_max of a Gauss-Newton matrix in z, the largest of all examples, weights
/// left out. Gradient steps are stable below 2/λ_max of the whole matrix, sweeps below that of
/// each block.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct CurvatureDiagnostics<T> {
    /// By Lanczos: at most λ_max, to rounding; `None` if a product overflows.
    pub estimate: Option<T>,
    /// At least λ_max for every example: what [`StepSize::Bounded`](crate::target_solver::StepSize::Bounded) steps
    /// by; `None` if a layer or a loss gives no bound.
    pub bound: Option<T>,
}

/// Width of a column, and of the first.
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
    /// Energies, gradients and gaps as they are in the fields: those of z in layer t's line are its
    /// target's, z_{t+1}. `-` is `None`.
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
        let loss = self.composed_loss.as_f64();
        let mean = loss / self.examples as f64;
        write!(f, "composed loss {loss:.3e} ({mean:.5} an example)")?;
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
