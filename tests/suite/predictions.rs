//! What predictions stand for, and data as users have them.

use crate::property::{Tested, generator, uniform};
use layerwise::data::from_rows;
use layerwise::kernel::Write;
use layerwise::layer::{Activation, Dense};
use layerwise::loss::{
    BinaryCrossEntropy, ClassWeights, KullbackLeibler, LabelSmoothing, Pair, Poisson,
    SoftmaxCrossEntropy, SquaredError, SumOverPositions, WeightedBinaryCrossEntropy,
    WeightedCrossEntropy,
};
use layerwise::nalgebra::DMatrix;
use layerwise::optimizer::GradientDescent;
use layerwise::training::{Backprop, Phase, Trainer, Warning};
use layerwise::{Circuit, DecoupledCircuit, Error, Loss};
use layerwise::{decoupled::TargetInit, energy::Energy};

in_both_scalars!(means_are_what_the_gradient_compares, blocks_change_no_bit);

/// ∂L/∂ẑ = mean − y for the losses of the exponential family.
fn means_are_what_the_gradient_compares<T: Tested>() {
    let weights = ClassWeights::new(vec![T::one(); 3], SoftmaxCrossEntropy).unwrap();
    let ones = || vec![T::one(); 3];
    let losses: [Box<dyn Loss<T>>; 8] = [
        Box::new(SquaredError),
        Box::new(SoftmaxCrossEntropy),
        Box::new(KullbackLeibler),
        Box::new(BinaryCrossEntropy),
        Box::new(Poisson),
        Box::new(weights),
        Box::new(WeightedCrossEntropy::new(ones()).unwrap()),
        Box::new(WeightedBinaryCrossEntropy::new(ones()).unwrap()),
    ];
    for loss in losses {
        let (dim, n) = (3, 4);
        let mut predictions: Vec<T> = uniform(&mut generator(2), dim * n, 3.0);
        let mut target = vec![T::zero(); dim * n];
        (0..n).for_each(|i| target[dim * i + i % dim] = T::one());
        let mut values = vec![T::zero(); n];
        let mut gradient = vec![T::zero(); dim * n];
        let mut work = vec![T::zero(); loss.scratch(dim, n)];
        let at = Pair::new(dim, &target, &predictions);
        let to = Write::Set(&mut gradient);
        loss.evaluate(&at, &mut values, Write::Skip, to, &mut work);
        loss.mean(dim, &mut predictions);
        for ((mean, y), g) in predictions.iter().zip(&target).zip(&gradient) {
            let error = (*mean - *y - *g).as_f64().abs();
            assert!(error < 8.0 * T::ROUNDING, "{loss:?}: {mean} - {y}, {g}");
        }
    }
}

#[test]
fn smoothed_labels_have_the_mean_of_their_loss() {
    let smoothed = LabelSmoothing::new(SoftmaxCrossEntropy, 0.1).unwrap();
    let (mut own, mut plain) = ([1.0, 2.0, -800.0, 900.0], [1.0, 2.0, -800.0, 900.0]);
    smoothed.mean(2, &mut own);
    SoftmaxCrossEntropy.mean(2, &mut plain);
    assert_eq!(own, plain);
    assert_eq!(own[2..], [0.0, 1.0]);
}

/// Whatever the weights are, and through a model too.
#[test]
fn weighted_losses_have_the_mean_of_the_plain_ones() {
    fn check(weighted: impl Loss<f64> + 'static, plain: impl Loss<f64> + 'static) {
        assert!(weighted.takes_logits());
        let (own, other) = (model_of([2, 3, 2], weighted), model_of([2, 3, 2], plain));
        let x = DMatrix::from_vec(2, 9, uniform::<f64>(&mut generator(6), 18, 3.0));
        assert_eq!(own.predict_proba(&x), other.predict_proba(&x));
        assert_eq!(own.predict_labels(&x), other.predict_labels(&x));
    }
    let weights = || vec![0.25, 8.0];
    let softmax = WeightedCrossEntropy::new(weights()).unwrap();
    check(softmax, SoftmaxCrossEntropy);
    let units = WeightedBinaryCrossEntropy::new(weights()).unwrap();
    check(units, BinaryCrossEntropy);
    let smoothed = LabelSmoothing::binary(BinaryCrossEntropy, 0.2).unwrap();
    check(smoothed, BinaryCrossEntropy);
}

fn model_of<T: Tested>(dims: [usize; 3], loss: impl Loss<T> + 'static) -> DecoupledCircuit<T> {
    let circuit = Circuit::builder()
        .layer(Dense::new(dims[0], dims[1], Activation::Tanh).unwrap())
        .layer(Dense::new(dims[1], dims[2], Activation::Identity).unwrap());
    DecoupledCircuit::new(circuit.build().unwrap(), Energy::new(loss)).unwrap()
}

/// Many columns, which are computed in blocks, and each by itself.
fn blocks_change_no_bit<T: Tested>() {
    let n = 2500;
    let model = model_of::<T>([3, 7, 2], SoftmaxCrossEntropy);
    let x = DMatrix::from_vec(3, n, uniform::<T>(&mut generator(4), 3 * n, 1.0));
    let (logits, p) = (model.predict(&x).unwrap(), model.predict_proba(&x).unwrap());
    let classes = model.predict_labels(&x).unwrap();
    for i in [0, 1, 1023, 1024, 2047, 2048, n - 1] {
        let alone = model.predict_one(x.column(i).as_slice()).unwrap();
        assert_eq!(logits.column(i).as_slice(), alone);
        assert_eq!(classes[i], usize::from(alone[1] > alone[0]));
        assert!((p.column(i).sum().as_f64() - 1.0).abs() < T::ROUNDING);
    }
}

/// One class for each position of each example, as if each position were an example of its own.
#[test]
fn positions_have_classes_of_their_own() {
    let loss = SumOverPositions::new(3, SoftmaxCrossEntropy).unwrap();
    let x = DMatrix::from_vec(2, 40, uniform::<f64>(&mut generator(5), 80, 3.0));
    let model = model_of::<f64>([2, 3, 12], loss);
    let p = model.predict(&x).unwrap();
    let classes = model.predict_labels(&x).unwrap();
    let expected = p.as_slice().chunks(4).map(|own| {
        let largest = own.iter().copied().fold(f64::MIN, f64::max);
        own.iter().position(|&p| p == largest).unwrap()
    });
    assert_eq!(classes, expected.collect::<Vec<_>>());
    assert_eq!(classes.len(), 120);

    // Summed twice, label-smoothed and boxed: 2 · 3 positions of one unit.
    let units = SumOverPositions::new(3, BinaryCrossEntropy).unwrap();
    let units = LabelSmoothing::binary(SumOverPositions::new(2, units).unwrap(), 0.1).unwrap();
    let model = model_of::<f64>([2, 3, 6], Box::new(units) as Box<dyn Loss<f64>>);
    let p = model.predict_proba(&x).unwrap();
    let classes = model.predict_labels(&x).unwrap();
    let expected = p.iter().map(|&p| usize::from(p >= 0.5));
    assert_eq!(classes, expected.collect::<Vec<_>>());
    assert!(classes.contains(&0) && classes.contains(&1));
}

/// A user's own loss whose number of positions does not divide the number of outputs.
#[test]
fn positions_that_do_not_divide_are_refused() {
    #[derive(Debug)]
    struct Divided(usize);

    impl Loss<f64> for Divided {
        fn positions(&self) -> usize {
            self.0
        }

        valued_by!(SquaredError);
    }

    let x = DMatrix::from_element(2, 4, 0.5);
    for positions in [0, 4, 12, usize::MAX] {
        let model = model_of::<f64>([2, 3, 6], Divided(positions));
        let error = model.predict_labels(&x).unwrap_err();
        assert!(
            matches!(
                error,
                Error::InvalidOption {
                    option: "Loss::positions",
                    ..
                }
            ),
            "{error}"
        );
        assert!(error.to_string().contains("6 outputs"), "{error}");
    }
    assert_eq!(
        model_of::<f64>([2, 3, 6], Divided(2))
            .predict_labels(&x)
            .unwrap()
            .len(),
        8
    );
}

#[test]
fn one_output_is_a_probability() {
    let model = model_of::<f64>([2, 3, 1], BinaryCrossEntropy);
    let x = DMatrix::from_vec(2, 50, uniform(&mut generator(5), 100, 3.0));
    let (logits, p) = (model.predict(&x).unwrap(), model.predict_proba(&x).unwrap());
    let classes = model.predict_labels(&x).unwrap();
    for i in 0..50 {
        assert!((p[i] - 1.0 / (1.0 + (-logits[i]).exp())).abs() < 1e-15);
        assert_eq!(classes[i], usize::from(logits[i] >= 0.0));
    }
    assert!(classes.contains(&0) && classes.contains(&1));
}

/// Logits so large that their probabilities round to the same number still have a largest one.
#[test]
fn saturated_probabilities_hide_no_class() {
    let circuit = Circuit::<f32>::builder().layer(Dense::new(1, 3, Activation::Identity).unwrap());
    let energy = Energy::new(BinaryCrossEntropy);
    let mut model = DecoupledCircuit::new(circuit.build().unwrap(), energy).unwrap();
    model
        .set_parameters(0, &[20.0, 30.0, 25.0, 0.0, 0.0, 0.0])
        .unwrap();
    let one = DMatrix::from_element(1, 1, 1.0);
    assert_eq!(model.predict_labels(&one).unwrap(), [1]);
    assert_eq!(model.predict_proba(&one).unwrap().as_slice(), [1.0; 3]);
}

#[test]
fn rows_of_another_length_are_named() {
    let x = from_rows(&[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]).unwrap();
    assert_eq!(
        x,
        DMatrix::from_row_slice(3, 2, &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0])
    );
    assert_eq!(from_rows::<f64>(&[[0.0; 0]; 0]).unwrap().shape(), (0, 0));
    let ragged = from_rows(&[vec![1.0_f32; 3], vec![1.0; 3], vec![1.0; 2]]).unwrap_err();
    let text = ragged.to_string();
    assert_eq!(
        text,
        "row 2 (row 0 sets the length): expected length 3, found 2"
    );
}

#[test]
fn transposed_data_are_told() {
    let mut model = model_of::<f64>([4, 3, 2], SquaredError);
    let rows = DMatrix::zeros(30, 4);
    let init = TargetInit::ForwardPass;
    let told = model.add_examples(&rows, &DMatrix::zeros(30, 2), &init);
    let text = told.unwrap_err().to_string();
    assert!(text.contains("found 30 x 4 (transposed?"), "{text}");
    let told = model.predict(&DMatrix::zeros(5, 6)).unwrap_err();
    assert!(!told.to_string().contains("transposed"), "{told}");
    let long = model.predict_one(&[0.0; 5]).unwrap_err();
    assert!(matches!(long, Error::Length { .. }), "{long}");
}

#[test]
fn logits_behind_an_activation_are_told() {
    for (activation, output, warned) in [
        (Activation::Sigmoid, true, true),
        (Activation::Relu, true, true),
        (Activation::Identity, true, false),
        (Activation::LeakyRelu { slope: 0.1 }, true, false),
        (Activation::LeakyRelu { slope: 0.0 }, true, true),
        (Activation::Sigmoid, false, false),
    ] {
        let circuit = Circuit::<f64>::builder().layer(Dense::new(2, 2, activation).unwrap());
        let energy = match output {
            true => Energy::new(SoftmaxCrossEntropy),
            false => Energy::new(SquaredError),
        };
        let mut model = DecoupledCircuit::new(circuit.build().unwrap(), energy).unwrap();
        let y = DMatrix::identity(2, 2);
        let init = TargetInit::ForwardPass;
        model.add_examples(&y, &y, &init).unwrap();
        let phase = Phase::new(Backprop, GradientDescent::new(0.1).unwrap());
        let report = Trainer::new(phase.with_epochs(3)).run(&mut model).unwrap();
        let told = report.warnings.iter().map(|own| own.warning);
        let expected = warned.then_some(Warning::Squashed { layer: 0 });
        assert_eq!(
            told.collect::<Vec<_>>(),
            Vec::from_iter(expected),
            "{activation:?}"
        );
    }
}
