//! What the tests' own layers share.

/// In a layer that spoils another one: dimensions, parameters, their initial values and memory are
/// those of the layer in the field.
macro_rules! described_by {
    ($field:tt: $scalar:ty) => {
        fn input_dim(&self) -> usize {
            layerwise::Layer::<$scalar>::input_dim(&self.$field)
        }

        fn output_dim(&self) -> usize {
            layerwise::Layer::<$scalar>::output_dim(&self.$field)
        }

        fn parameters(&self) -> Vec<layerwise::layer::ParameterGroup> {
            layerwise::Layer::<$scalar>::parameters(&self.$field)
        }

        fn initialize(&self, parameters: &mut [$scalar], rng: &mut dyn layerwise::rand::Rng) {
            layerwise::Layer::<$scalar>::initialize(&self.$field, parameters, rng);
        }

        fn scratch(&self, batch: usize) -> layerwise::layer::Scratch {
            layerwise::Layer::<$scalar>::scratch(&self.$field, batch)
        }
    };
}
