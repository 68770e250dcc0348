//! What the tests' own layers share.

/// In a layer that spoils another one: shapes, parameters, their initial values and memory are
/// those of the layer in the field.
macro_rules! described_by {
    ($field:tt: $scalar:ty) => {
        fn input_shape(&self) -> layerwise::layer::Shape {
            self.$field.input_shape()
        }

        fn output_shape(&self) -> layerwise::layer::Shape {
            self.$field.output_shape()
        }

        fn parameters(&self) -> Vec<layerwise::layer::ParameterGroup> {
            self.$field.parameters()
        }

        fn initialize(&self, parameters: &mut [$scalar], rng: &mut dyn layerwise::rand::Rng) {
            layerwise::Layer::<$scalar>::initialize(&self.$field, parameters, rng);
        }

        fn scratch(&self, batch: usize) -> layerwise::layer::Scratch {
            self.$field.scratch(batch)
        }
    };
}

/// In such a layer: ẑ and its products are those of the layer in the field.
macro_rules! evaluated_by {
    ($field:tt: $scalar:ty) => {
        fn forward(
            &self,
            context: &layerwise::layer::Context<'_>,
            parameters: &[$scalar],
            input: &[$scalar],
            output: &mut [$scalar],
            tape: Option<&mut [$scalar]>,
            work: &mut [$scalar],
        ) {
            self.$field
                .forward(context, parameters, input, output, tape, work);
        }

        fn vjp(
            &self,
            at: &layerwise::layer::Point<'_, $scalar>,
            cotangent: &[$scalar],
            d_input: layerwise::kernel::Write<'_, $scalar>,
            d_parameters: layerwise::kernel::Write<'_, $scalar>,
            work: &mut [$scalar],
        ) {
            self.$field.vjp(at, cotangent, d_input, d_parameters, work);
        }

        fn jvp(
            &self,
            at: &layerwise::layer::Point<'_, $scalar>,
            v_input: Option<&[$scalar]>,
            v_parameters: Option<&[$scalar]>,
            tangent: &mut [$scalar],
            work: &mut [$scalar],
        ) {
            self.$field.jvp(at, v_input, v_parameters, tangent, work);
        }
    };
}

/// In a loss that changes another one: values, gradients and curvature are those of that loss.
macro_rules! valued_by {
    ($loss:expr) => {
        fn evaluate(
            &self,
            at: &layerwise::loss::Pair<'_, f64>,
            values: &mut [f64],
            d_target: layerwise::kernel::Write<'_, f64>,
            d_prediction: layerwise::kernel::Write<'_, f64>,
            work: &mut [f64],
        ) {
            $loss.evaluate(at, values, d_target, d_prediction, work);
        }

        fn curvature(
            &self,
            at: &layerwise::loss::Pair<'_, f64>,
            v_target: Option<&[f64]>,
            v_prediction: Option<&[f64]>,
            out_target: layerwise::kernel::Write<'_, f64>,
            out_prediction: layerwise::kernel::Write<'_, f64>,
            work: &mut [f64],
        ) {
            let out = (out_target, out_prediction);
            $loss.curvature(at, v_target, v_prediction, out.0, out.1, work);
        }
    };
}
