//! Ill-conditioned inputs: pixels of very different scales.

use std::error::Error;

use layerwise::decoupled::TargetInit;
use layerwise::optimizer::{Adam, GradientDescent};
use layerwise::rand::SeedableRng;
use layerwise::rand::rngs::ChaCha8Rng;
use layerwise::rand::seq::SliceRandom;
use layerwise::training::Trainer;
use serde::Serialize;

use crate::Options;
use crate::digits::{self, Digits};
use crate::nets::{self, Start, Unit, accuracy};
use crate::recipe::{Recipe, backprop, projected};
use crate::results::Results;
use crate::statistics::{Spread, print_table};

const DEPTH: usize = 5;

#[derive(Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Way {
    /// Backprop with plain gradient descent.
    Descent { rate: f64 },
    /// Backprop with Adam.
    Adam { rate: f64 },
    /// The recipe with only Adam's W-steps.
    Gradients,
    /// The recipe, which begins with W-steps in closed form.
    ClosedForm,
}

#[derive(Serialize)]
struct Task {
    conditioning: Way,
    /// Ratio of the largest to the smallest scaling factor of a pixel.
    ratio: f64,
    recipe: Recipe,
    seed: u64,
    split_seed: u64,
}

impl Task {
    fn run(&self, train: &Digits, test: &Digits) -> Result<f64, layerwise::Error> {
        let (train, test) = self.scaled(train, test);
        let circuit = nets::deep(Unit::Tanh, DEPTH, Start::Normal(1.0), self.seed)?;
        let projected = projected(&circuit, &train.images, self.seed)?;
        let epochs = self.recipe.epochs();
        let (targets, phases) = match self.conditioning {
            Way::Descent { rate } => (
                TargetInit::ForwardPass,
                vec![backprop(GradientDescent::new(rate)?, epochs)?],
            ),
            Way::Adam { rate } => (
                TargetInit::ForwardPass,
                vec![backprop(Adam::new(rate)?, epochs)?],
            ),
            Way::Gradients => (projected, self.recipe.by_gradients()?),
            Way::ClosedForm => (projected, self.recipe.decoupled()?),
        };
        let mut model = nets::model(circuit, &train, &targets)?;
        for phase in phases {
            Trainer::new(phase)
                .with_seed(self.seed)
                .with_measure_every(0)
                .run(&mut model)?;
        }
        accuracy(&model, &test)
    }

    /// Multiplies each pixel by a factor between 1 and 1/`ratio`, evenly spaced in the logarithm
    /// and in random order. Then rescales training and test images by one common factor, which
    /// restores the norm of the training images.
    fn scaled(&self, train: &Digits, test: &Digits) -> (Digits, Digits) {
        let mut order: Vec<usize> = (0..digits::PIXELS).collect();
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(self.seed));
        let scale = |digits: &Digits| {
            let mut images = digits.images.clone();
            for (i, &place) in order.iter().enumerate() {
                let share = place as f64 / (digits::PIXELS - 1) as f64;
                images.row_mut(i).scale_mut(self.ratio.powf(-share) as f32);
            }
            Digits {
                images,
                mean: digits.mean.clone(),
                classes: digits.classes.clone(),
                labels: digits.labels.clone(),
            }
        };
        let (mut own, mut unseen) = (scale(train), scale(test));
        let factor = train.images.norm() / own.images.norm();
        own.images *= factor;
        unseen.images *= factor;
        (own, unseen)
    }
}

pub fn table(
    options: &Options,
    results: &Results,
    (train, test): &(Digits, Digits),
) -> Result<(), Box<dyn Error>> {
    let recipe = Recipe::of(options.quick).unfinished();
    let best = |ways: &[Way], ratio: f64| -> Result<Spread, Box<dyn Error>> {
        let mut best: Option<Spread> = None;
        for &conditioning in ways {
            let tasks: Vec<Task> = options
                .seeds
                .iter()
                .map(|&seed| Task {
                    conditioning,
                    ratio,
                    recipe,
                    seed,
                    split_seed: options.split_seed,
                })
                .collect();
            let outcomes =
                results.of(&tasks, options.runs as usize, |task| task.run(train, test))?;
            let own = Spread::of(&outcomes);
            if best.is_none_or(|best| own.mean > best.mean) {
                best = Some(own);
            }
        }
        Ok(best.expect("there is a way"))
    };
    let descent = [0.1, 0.3, 1.0, 3.0].map(|rate| Way::Descent { rate });
    let adam = [1e-3, 3e-3, 1e-2, 3e-2].map(|rate| Way::Adam { rate });
    let mut rows = Vec::new();
    for ratio in [1.0, 10.0, 100.0, 1000.0] {
        rows.push(vec![
            ratio.to_string(),
            best(&descent, ratio)?.show(1),
            best(&adam, ratio)?.show(1),
            best(&[Way::Gradients], ratio)?.show(1),
            best(&[Way::ClosedForm], ratio)?.show(1),
        ]);
    }
    println!(
        "**Ill-conditioned inputs.** tanh, {DEPTH} layers, {} passes; test accuracy, %.\n",
        recipe.epochs()
    );
    print_table(
        &[
            "scales of pixels, largest / smallest",
            "backprop, descent, best of 4 rates",
            "backprop, Adam, best of 4 rates",
            "projected, W-steps by Adam",
            "projected, first W-steps in closed form",
        ],
        &rows,
    );
    Ok(())
}
