//! The one error type of the crate.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

/// Where a non-finite value was found; part of [`Error::NonFinite`] and [`Error::NonFiniteData`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Quantity {
    /// An input z_0.
    Input,
    /// An output target z_T, or an auxiliary target z_t.
    Target,
    /// A layer's parameters θ_t.
    Parameter,
    /// The energy of a local problem, ℓ_t.
    Energy,
    /// The composed loss.
    ComposedLoss,
    /// The composed loss of validation examples.
    ValidationLoss,
    /// An input of a validation example; it belongs to no layer.
    ValidationInput,
    /// An output target of a validation example; it belongs to no layer.
    ValidationTarget,
    /// A gradient with respect to θ_t.
    ParameterGradient,
    /// A gradient with respect to z_t.
    TargetGradient,
    /// The prediction of a layer, ẑ_{t+1}.
    Prediction,
    /// A Lagrange multiplier λ_t.
    Multiplier,
    /// Auxiliary targets z_t that a circuit proposes
    /// ([`Amortized`](crate::training::Amortized)).
    Proposal,
    /// A gradient with respect to the parameters of the proposer's layer.
    ProposerGradient,
    /// The parameters of the proposer's layer.
    ProposerParameter,
    /// The sums of a layer's normal equations.
    NormalEquations,
    /// The bound on the curvature of E in z_t that
    /// [`StepSize::Bounded`](crate::target_solver::StepSize::Bounded) divides by.
    CurvatureBound,
    /// A value of data to be scaled; it belongs to no layer.
    Data,
    /// A target passed to a metric; it belongs to no layer.
    MetricTarget,
    /// An output passed to a metric; it belongs to no layer.
    MetricOutput,
}

impl Quantity {
    /// The quantity with its layer, if it belongs to one.
    fn of(self, layer: usize) -> String {
        match self {
            Self::ComposedLoss
            | Self::ValidationLoss
            | Self::ValidationInput
            | Self::ValidationTarget
            | Self::Data
            | Self::MetricTarget
            | Self::MetricOutput => self.to_string(),
            _ => format!("{self} of layer {layer}"),
        }
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Input => "input",
            Self::Target => "target",
            Self::Parameter => "parameters",
            Self::Energy => "energy",
            Self::ComposedLoss => "composed loss",
            Self::ValidationLoss => "validation loss",
            Self::ValidationInput => "validation input",
            Self::ValidationTarget => "validation target",
            Self::ParameterGradient => "parameter gradient",
            Self::TargetGradient => "target gradient",
            Self::Prediction => "prediction",
            Self::Multiplier => "multiplier",
            Self::Proposal => "proposed target",
            Self::ProposerGradient => "proposer's gradient",
            Self::ProposerParameter => "proposer's parameters",
            Self::NormalEquations => "normal equations",
            Self::CurvatureBound => "curvature bound",
            Self::Data => "value",
            Self::MetricTarget => "target of a metric",
            Self::MetricOutput => "output of a metric",
        })
    }
}

/// Why a line or band cannot be drawn; part of [`Error::Plot`].
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Unplottable {
    /// It has no points, or its history no records.
    Empty,
    /// No record has a value of the quantity.
    NotRecorded,
    /// Its run was added without times.
    NotTimed,
    /// None of its values is finite.
    NotFinite {
        /// How many there are.
        count: usize,
    },
    /// There is no epoch at which all runs have a finite value.
    NoCommonEpoch {
        /// How many runs there are.
        runs: usize,
    },
    /// A value that a logarithmic axis cannot show.
    NotPositive {
        /// The value.
        value: f64,
        /// Its place along x.
        at: f64,
    },
}

impl fmt::Display for Unplottable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("there are no points"),
            Self::NotRecorded => {
                f.write_str("its records have none (a metric needs Trainer::with_metric)")
            }
            Self::NotTimed => {
                f.write_str("its run was added without times (use Runs::with_timed_run)")
            }
            Self::NotFinite { count } => write!(f, "none of {count} values is finite"),
            Self::NoCommonEpoch { runs } => {
                write!(f, "no epoch has a finite value in all {runs} runs")
            }
            Self::NotPositive { value, at } => write!(
                f,
                "the value at {at} is {value}, but a logarithmic axis shows only values above 0"
            ),
        }
    }
}

/// Everything that can go wrong, with the numbers that explain it.
///
/// An error never leaves work half done. Constructors, setters and additions leave their object
/// unchanged. A training run keeps the parameters of its last completed step (or, with
/// [`Stopping::Validation`](crate::training::Stopping::Validation), of its best epoch), and the
/// targets of its last completed visit.
///
/// `Debug` prints the message too: it is what `fn main() -> Result<(), Error>` and `unwrap` show.
#[derive(Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A circuit, or a [`Sequential`](crate::layer::Sequential), without layers.
    #[error("a {what} needs at least one layer, but none was given")]
    NoLayers {
        /// "circuit" or "sequential layer".
        what: &'static str,
    },

    /// A dimension that must be at least 1 is 0.
    #[error("{what} must be at least 1, but is 0")]
    ZeroDimension {
        /// Which dimension.
        what: &'static str,
    },

    /// A matrix that is too large for memory, or whose size in memory overflows.
    #[error("{what} of {rows} x {columns} values cannot fit in memory")]
    TooLarge {
        /// Which matrix.
        what: &'static str,
        /// Its rows.
        rows: usize,
        /// Its columns.
        columns: usize,
    },

    /// A layer whose input size differs from the output size of the layer before it.
    #[error(
        "layer {layer} of the {owner} takes inputs of {}, but {} gives outputs of {}",
        extents(found), before(*layer), extents(expected)
    )]
    LayerMismatch {
        /// What the layers belong to: "circuit" or "sequential layer".
        owner: &'static str,
        /// The later of the two layers, counted from 0 within the owner.
        layer: usize,
        /// Output shape of layer − 1.
        expected: Vec<usize>,
        /// Input shape of the layer.
        found: Vec<usize>,
    },

    /// A [`Residual`](crate::layer::Residual) around a layer that changes the shape.
    #[error(
        "a residual layer adds its branch's output to its input, but the branch maps {} to {}",
        extents(input),
        extents(output)
    )]
    BranchShape {
        /// Input shape of the branch.
        input: Vec<usize>,
        /// Output shape of the branch.
        output: Vec<usize>,
    },

    /// An [`Unfold`](crate::layer::Unfold) reads outside its input.
    #[error(
        "entry {entry} of the patch at position {position} reads input value {source_entry}, but the input has only {inputs} values (counted from 0)"
    )]
    Source {
        /// Entry of the patch.
        entry: usize,
        /// Position of the patch.
        position: usize,
        /// The index of the input value that it reads.
        source_entry: usize,
        /// The number of input values.
        inputs: usize,
    },

    /// A layer that is not differentiable in its input comes after another layer.
    #[error(
        "layer {layer} is not differentiable in its input, so it can only be the first layer of a circuit"
    )]
    InputNotDifferentiable {
        /// The layer, counted from 0.
        layer: usize,
    },

    /// A shard that was made for a different layer or loss.
    #[error(
        "the shard of layer {layer} has fingerprint {found:016x}, but this layer and its loss have {expected:016x}: the scalar type, dimensions, layer and loss, with every option that Debug prints, must be the same as where the shard was made"
    )]
    Fingerprint {
        /// t, as stored in the shard.
        layer: usize,
        /// The fingerprint of the layer and loss here.
        expected: u64,
        /// The fingerprint in the shard.
        found: u64,
    },

    /// A [`Description`](crate::description::Description) without a setting that its kind needs, or
    /// with a wrong one.
    #[error("the description of a {kind}: {setting} must be {expected}, but is {found}")]
    Description {
        /// The kind described.
        kind: String,
        /// The setting.
        setting: String,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },

    /// A description of a kind that the [`Registry`](crate::registry::Registry) does not know.
    #[error(
        "no {what} of kind '{kind}' is known here; the known kinds are: {known} (add layers, losses and unfolds of your own to a Registry)"
    )]
    UnknownKind {
        /// "layer", "loss", "unfold" or "initializer".
        what: &'static str,
        /// The kind.
        kind: String,
        /// The kinds that are registered, separated by commas.
        known: String,
    },

    /// A file of another model than the one it was loaded into.
    #[error("{what} differs: {expected} here, but {found} in {file}")]
    Architecture {
        /// The file, or "the given buffer".
        file: String,
        /// What differs, such as "layer 2".
        what: String,
        /// What it is here.
        expected: String,
        /// What it is in the file.
        found: String,
    },

    /// A file that could not be read or written.
    #[error("{file} could not be {doing}: {reason}")]
    File {
        /// Its path.
        file: String,
        /// "read" or "written".
        doing: &'static str,
        /// What the operating system says.
        reason: String,
    },

    /// A file that is damaged, of a newer version, or not of the expected kind.
    #[error("cannot use {file}: {reason}")]
    Format {
        /// The file, or "the given buffer".
        file: String,
        /// What is wrong with it.
        reason: String,
    },

    /// A value in a data file that is not a number, or that its target or the scalar type cannot
    /// hold.
    #[error("{file}, row {row}{}, column {column}: {reason}", on_line(*line))]
    FileValue {
        /// The file.
        file: String,
        /// The row of the data set, counted from 0.
        row: usize,
        /// In a text file, the line on which its record begins, counted from 1.
        line: Option<u64>,
        /// The column, counted from 0, with its name if it has one; in arrays, the place of the value
        /// in its example.
        column: String,
        /// What is wrong, with the value.
        reason: String,
    },

    /// A row number outside a data set.
    #[error("row {row} was requested, but the data set has {count} rows, counted from 0")]
    UnknownRow {
        /// The requested row.
        row: usize,
        /// How many there are.
        count: usize,
    },

    /// A line or band that cannot be drawn.
    #[error("cannot plot '{quantity}' of '{line}': {reason}")]
    Plot {
        /// Its name; for a run, the name of its method.
        line: String,
        /// What the axis shows.
        quantity: String,
        /// Why it cannot be drawn.
        reason: Unplottable,
    },

    /// A layer whose parameter groups do not tile its parameter vector.
    #[error(
        "layer {layer}: parameter group '{group}' covers {start}..{end}, but must start at {expected} and hold {size} values, the product of its shape"
    )]
    ParameterLayout {
        /// The layer, counted from 0.
        layer: usize,
        /// Name of the group.
        group: String,
        /// Where its range starts.
        start: usize,
        /// Where its range ends.
        end: usize,
        /// Where it should start: the end of the group before it.
        expected: usize,
        /// The product of its shape.
        size: usize,
    },

    /// An index of a layer that the circuit does not have, or that the operation does not allow.
    #[error("there is no layer {layer} here; choose from: {allowed}")]
    UnknownLayer {
        /// The requested index.
        layer: usize,
        /// The indices that are allowed, such as "0 to 3".
        allowed: String,
    },

    /// The name of a parameter group that the circuit, or one of its layers, does not have.
    #[error("there is no parameter group '{group}' in {}: {}", scope(*layer), known(groups))]
    UnknownGroup {
        /// The requested name.
        group: String,
        /// The layer in which it was looked for; `None` for all layers.
        layer: Option<usize>,
        /// The names that exist there.
        groups: Vec<String>,
    },

    /// A hidden loss whose target cannot be trained.
    #[error(
        "the loss {loss} of hidden layer {layer} has a fixed target, but auxiliary targets are trained; use a loss whose target may vary, such as SquaredError"
    )]
    FixedTargetLoss {
        /// The loss, as its `Debug` prints it.
        loss: String,
        /// The hidden layer t = 1, …, T−1.
        layer: usize,
    },

    /// A hidden loss other than squared error, where an operation is exact, or defined at all, only for
    /// squared error.
    #[error(
        "the loss {loss} of hidden layer {layer} is not SquaredError, which {operation} requires"
    )]
    NotSquaredError {
        /// The loss, as its `Debug` prints it.
        loss: String,
        /// The hidden layer t = 1, …, T−1.
        layer: usize,
        /// What requires it.
        operation: &'static str,
    },

    /// A closed form for linear circuits was applied to a circuit that is not known to be linear.
    #[error(
        "the local problem of layer {layer} is not a linear least-squares problem, as this closed form requires: {reason}"
    )]
    NotLinear {
        /// The layer, counted from 0.
        layer: usize,
        /// Why it is not.
        reason: String,
    },

    /// A matrix or slice of the wrong shape.
    #[error(
        "{what}: expected {} x {}, found {} x {}{}",
        expected.0, expected.1, found.0, found.1, likely_cause(what, *expected, *found)
    )]
    Shape {
        /// What was given.
        what: String,
        /// Rows and columns expected.
        expected: (usize, usize),
        /// Rows and columns found.
        found: (usize, usize),
    },

    /// A list or slice of the wrong length.
    #[error("{what}: expected length {expected}, found {found}")]
    Length {
        /// What was given.
        what: String,
        /// Length expected.
        expected: usize,
        /// Length found.
        found: usize,
    },

    /// Inputs and targets have different numbers of examples.
    #[error(
        "{inputs} inputs were given with {targets} targets: both need one column per example, so these counts must be equal"
    )]
    ExampleCount {
        /// Columns of the inputs.
        inputs: usize,
        /// Columns of the targets.
        targets: usize,
    },

    /// An operation over examples was given none.
    #[error("{operation} needs at least one example, but has none")]
    NoExamples {
        /// The operation.
        operation: &'static str,
    },

    /// An example id that the circuit does not hold.
    #[error("example {example} is not among the {count} examples of the circuit")]
    UnknownExample {
        /// The requested id.
        example: u64,
        /// How many examples there are.
        count: usize,
    },

    /// The same example occurs twice in one selection.
    #[error("example {example} occurs twice in one selection")]
    RepeatedExample {
        /// The example.
        example: u64,
    },

    /// A label that is not a class index.
    #[error(
        "example column {column} has class {class}, but the classes are 0 to {}", classes.saturating_sub(1)
    )]
    UnknownClass {
        /// Column, counted from 0.
        column: usize,
        /// Its label.
        class: usize,
        /// How many classes there are.
        classes: usize,
    },

    /// Labels that should be one-hot columns, or zeros and ones, but are not.
    #[error("the label of example column {column} is not one-hot: {reason}")]
    NotOneHot {
        /// Column, counted from 0.
        column: usize,
        /// What is wrong, with the number.
        reason: String,
    },

    /// An output that should be a probability, but is not.
    #[error(
        "row {row} of example column {column} is {value}, but a probability must be from 0 to 1 (is it a logit? `predict_proba` gives probabilities, `Trainer::with_metric_of_probabilities` passes them to a metric)"
    )]
    NotProbability {
        /// Row, counted from 0.
        row: usize,
        /// Column, counted from 0.
        column: usize,
        /// The value, converted to `f64`.
        value: f64,
    },

    /// Class probabilities that do not add up to 1.
    #[error(
        "the probabilities of example column {column} sum to {total}, not 1: they must be a distribution over the classes"
    )]
    NotDistribution {
        /// Column, counted from 0.
        column: usize,
        /// Their sum.
        total: f64,
    },

    /// A range of columns that goes beyond the examples of the circuit, or of the data set.
    #[error("columns {start}..{end} were requested, but there are only {count} examples")]
    UnknownColumns {
        /// First column.
        start: usize,
        /// One past the last column.
        end: usize,
        /// How many examples there are.
        count: usize,
    },

    /// NaN or infinity in data given by the caller.
    #[error("{} at row {row}, column {column} is {value}, but must be finite", quantity.of(*layer))]
    NonFiniteData {
        /// Where it was found.
        quantity: Quantity,
        /// t of z_t or θ_t; 0 for data that belong to no layer.
        layer: usize,
        /// Row, counted from 0.
        row: usize,
        /// Column, counted from 0.
        column: usize,
        /// The value, converted to `f64`.
        value: f64,
    },

    /// A call that needs all examples in memory, on a model that streams them from a data set.
    #[error("{operation} needs the examples in memory, but those of this model are streamed")]
    NotInMemory {
        /// What was asked for.
        operation: &'static str,
    },

    /// A call that reads or changes stored targets, on a model whose targets are
    /// [computed](crate::decoupled::TargetInit::Computed).
    #[error(
        "{operation} needs stored targets, but those of this model are computed where they are needed \
         (TargetInit::Computed)"
    )]
    TargetsNotStored {
        /// What was asked for.
        operation: &'static str,
    },

    /// A target outside the domain of its loss.
    #[error("{loss}: the target of example column {column} is outside the domain: {reason}")]
    TargetDomain {
        /// The loss, as its `Debug` prints it.
        loss: String,
        /// Column, counted from 0.
        column: usize,
        /// What is wrong, with the number.
        reason: String,
    },

    /// An input outside the domain of the first layer.
    #[error("the input of example column {column} is outside the layer's domain: {reason}")]
    InputDomain {
        /// Column, counted from 0.
        column: usize,
        /// What is wrong, with the number.
        reason: String,
    },

    /// An option has a value that is not allowed.
    #[error("option {option} is {value}, but must be {allowed}")]
    InvalidOption {
        /// Name of the option.
        option: &'static str,
        /// Value given.
        value: f64,
        /// What is allowed.
        allowed: Cow<'static, str>,
    },

    /// An option that needs a cargo feature which is not enabled in this build.
    #[error("option {option} needs the feature '{feature}', which is not enabled")]
    FeatureDisabled {
        /// Name of the option.
        option: &'static str,
        /// The cargo feature.
        feature: &'static str,
    },

    /// A solver needs a bound that a layer or loss does not give (`Layer::curvature_bound`,
    /// `Loss::curvature_bound`). `StepSize::Checked` and `StepSize::Fixed` do not need one.
    #[error(
        "a curvature-bounded step needs a curvature bound, but {} gives none: use a short `StepSize::Checked` (`with_step`), or implement its `curvature_bound`",
        unbounded(of, *layer)
    )]
    NoCurvatureBound {
        /// "the layer" or "the loss".
        of: &'static str,
        /// The layer.
        layer: usize,
    },

    /// A parameter solver that cannot handle a layer's local problem.
    #[error("{solver} cannot solve layer {layer}: {reason}")]
    ParameterSolver {
        /// The solver's name.
        solver: &'static str,
        /// The layer.
        layer: usize,
        /// The requirement that is not met.
        reason: String,
    },

    /// Normal equations without a unique solution.
    #[error(
        "{what} have no unique solution: in these examples input row {row} (from 0; the bias is the last) is constant or, up to rounding, a combination of earlier rows. Give more examples, or a ridge or proximal weight of {ridge:.1e} or more, which rounding does not hide (relative curvature {curvature:.1e}, not above {least:.1e})"
    )]
    Singular {
        /// Which equations.
        what: String,
        /// The row of the system, counted from 0.
        row: usize,
        /// The matrix's curvature along the combination, relative to its diagonal.
        curvature: f64,
        /// The largest value that rounding alone can produce.
        least: f64,
        /// A ridge or proximal weight that is large enough: about 4dε times the mean square of the
        /// largest of d inputs.
        ridge: f64,
    },

    /// The thread pool could not be started.
    #[error("a pool of {threads} threads could not be started: {reason}")]
    ThreadPool {
        /// The number of threads requested.
        threads: usize,
        /// The reason given by the operating system.
        reason: String,
    },

    /// A derivative that finite differences contradict.
    #[error("wrong derivative: {entry}, above the tolerance {tolerance:e}")]
    WrongDerivative {
        /// The worst entry, with both numbers.
        entry: GradEntry,
        /// The largest error allowed.
        tolerance: f64,
    },

    /// A combination of options that makes no sense.
    #[error("cannot use {what}: {reason}")]
    Combination {
        /// The combination.
        what: &'static str,
        /// Why it makes no sense.
        reason: &'static str,
    },

    /// A gradient check that compared no derivatives, and so could not have failed.
    #[error("no derivative was compared: there are no parameters and no differentiable input here")]
    NothingCompared,

    /// A result overflows the scalar type, although everything it was computed from is finite.
    #[error("{} overflowed: data, targets or parameters are too large for the scalar type", quantity.of(*layer))]
    Overflow {
        /// Which quantity.
        quantity: Quantity,
        /// Its layer.
        layer: usize,
    },

    /// A step computed a value that is not finite.
    #[error(
        "{} became non-finite in step {step} (counted from 0), so this step was not made. Try a smaller learning rate or step size, and data of unit scale",
        quantity.of(*layer)
    )]
    NonFinite {
        /// Which quantity.
        quantity: Quantity,
        /// Its layer.
        layer: usize,
        /// The step, counted from 0 (a Z-step within one visit, or a parameter step of the run).
        step: u64,
    },
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The likely cause of a wrong shape, for error messages.
fn likely_cause(what: &str, expected: (usize, usize), found: (usize, usize)) -> &'static str {
    match found {
        (1, columns) if what.contains("targets") && columns == expected.1 => {
            " (class numbers? metrics::one_hot turns them into columns)"
        }
        _ if found.1 == expected.0 && found.0 != expected.0 => {
            " (transposed? Each column is an example, each row a feature)"
        }
        _ => "",
    }
}

impl Error {
    /// The same error where these columns come after `count` others.
    pub(crate) fn after(mut self, count: usize) -> Self {
        if let Self::NonFiniteData { column, .. }
        | Self::TargetDomain { column, .. }
        | Self::InputDomain { column, .. }
        | Self::NotOneHot { column, .. } = &mut self
        {
            *column += count;
        }
        self
    }

    /// [`Error::UnknownLayer`] where only layers in `allowed` can be used.
    pub(crate) fn unknown_layer(layer: usize, allowed: Range<usize>) -> Self {
        let (first, count) = (allowed.start, allowed.len());
        let allowed = match count {
            0 => "none".into(),
            1 => first.to_string(),
            _ => format!("{first} to {}", first + count - 1),
        };
        Self::UnknownLayer { layer, allowed }
    }
}

/// The layer before a layer, for error messages.
fn before(layer: usize) -> String {
    match layer.checked_sub(1) {
        Some(layer) => format!("layer {layer}"),
        None => "what comes before it".into(),
    }
}

/// What gives no curvature bound.
fn unbounded(of: &str, layer: usize) -> String {
    match of {
        "the layer" => format!("layer {layer}"),
        _ => format!("{of} of layer {layer}"),
    }
}

/// The line of a record, for error messages.
fn on_line(line: Option<u64>) -> String {
    line.map_or(String::new(), |line| format!(" (line {line})"))
}

/// Where a parameter group was looked for.
fn scope(layer: Option<usize>) -> String {
    layer.map_or("any layer".into(), |layer| format!("layer {layer}"))
}

/// The parameter groups that exist.
fn known(groups: &[String]) -> String {
    match groups {
        [] => "there are no parameters".into(),
        groups => format!("the groups are '{}'", groups.join("', '")),
    }
}

/// "dimension 5", or "shape 3 x 4 x 4 (dimension 48)".
fn extents(shape: &[usize]) -> String {
    let size = shape
        .iter()
        .fold(1_usize, |size, &n| size.saturating_mul(n));
    if shape.len() == 1 {
        return format!("dimension {size}");
    }
    let all: Vec<String> = shape.iter().map(ToString::to_string).collect();
    format!("shape {} (dimension {size})", all.join(" x "))
}

/// One entry of a derivative, with the finite difference it is compared with.
#[derive(Debug, Clone, PartialEq)]
pub struct GradEntry {
    /// Which derivative, such as "∂f/∂θ by vjp".
    pub derivative: &'static str,
    /// The index t of θ_t or z_t, in the check of a whole circuit.
    pub layer: Option<usize>,
    /// Whether it was checked as in a training visit, rather than in a prediction.
    pub training: bool,
    /// Which entry of the derivative, or which random direction.
    pub index: usize,
    /// The value from the code under test.
    pub analytic: f64,
    /// The value from finite differences.
    pub numeric: f64,
    /// The error as defined by [`GradCheck`](crate::gradcheck::GradCheck). It is infinite if a
    /// value is not finite, or if two values that must be equal differ.
    pub error: f64,
}

impl fmt::Display for GradEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layer = self.layer.map_or(String::new(), |t| format!(", t = {t}"));
        let training = if self.training { ", in training" } else { "" };
        write!(
            f,
            "{}{layer}{training} [{}]: analytic {:e}, numeric {:e}, error {:.1e}",
            self.derivative, self.index, self.analytic, self.numeric, self.error
        )
    }
}
