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
