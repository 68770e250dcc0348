//! Examples that are streamed: the same bits as with all of them in memory.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use layerwise::data::{Dataset, InMemory};
use layerwise::decoupled::{Selection, TargetInit};
use layerwise::diagnostics::Diagnostics;
use layerwise::energy::Energy;
use layerwise::gradcheck::GradCheck;
use layerwise::layer::{Activation, Dense};
use layerwise::nalgebra::DMatrix;
use layerwise::objective::Objective;
use layerwise::optimizer::Adam;
use layerwise::registry::Registry;
use layerwise::state::State;
use layerwise::storage::Stored;
use layerwise::target_solver::ReverseSweep;
use layerwise::theory;
use layerwise::training::{
    Decoupling, Event, Observer, PenaltyGrowth, Phase, Progress, Scheme, Session, Targets, Trainer,
    Visit, WStep, ZStep,
};
use layerwise::{Circuit, DecoupledCircuit, Error};

use crate::checkpoints::{empty, plain, schemes, trainer, w_steps, wave};
use crate::storage::Folder;

const N: usize = 11;

fn noise<T: Stored>() -> TargetInit<T> {
    TargetInit::NoisyForwardPass { std: 0.2, seed: 3 }
}

fn data<T: Stored>(n: usize) -> Arc<dyn Dataset<T>> {
    Arc::new(InMemory::new(wave::<T>(2, n), wave::<T>(1, n)).unwrap())
}

fn in_memory<T: Stored>(n: usize) -> DecoupledCircuit<T> {
    let mut model = empty();
    model.add_dataset(&data::<T>(n), &noise()).unwrap();
    model
}

fn streamed<T: Stored>(n: usize, folder: &Path) -> DecoupledCircuit<T> {
    let mut model = empty();
    let ids = model.stream_dataset(data::<T>(n), folder, &noise());
    assert_eq!(ids.unwrap(), 0..n as u64);
    model
}

/// θ, μ and all z_t.
fn values<T: Stored>(model: &DecoupledCircuit<T>) -> (Vec<Vec<T>>, Vec<T>, Vec<DMatrix<T>>) {
    let depth = model.circuit().depth();
    let parameters = (0..depth).map(|t| model.circuit().parameters(t).to_vec());
    let z = (0..=depth).map(|t| model.z_of(t, &Selection::All).unwrap());
    let penalties = model.terms().penalties().to_vec();
    (parameters.collect(), penalties, z.collect())
}

fn assert_alike<T: Stored>(a: &DecoupledCircuit<T>, b: &DecoupledCircuit<T>, place: &str) {
    assert_eq!(values(a), values(b), "{place}");
}

fn runs_alike<T: Stored>() {
    let folder = Folder::new(&format!("streamed-runs-{}", T::NAME));
    let path = folder.file("run");
    let mut run = 0;
    for (i, w_step) in w_steps::<T>().into_iter().enumerate() {
        for (j, scheme) in schemes::<T>().into_iter().enumerate() {
            let place = format!("{} {i} {scheme:?}", T::NAME);
            let Some(trainer) = trainer(scheme, w_step.clone()) else {
                continue;
            };
            let mut models = [in_memory::<T>(N), streamed(N, folder.path())];
            if j % 2 == 1 {
                for model in &mut models {
                    let weights = [0.0, 2.0].map(T::of);
                    let some = Selection::Examples(&[4, 9]);
                    model.set_example_weights(&some, &weights).unwrap();
                }
            }
            let [memory, streaming] = models;
            let Ok(mut whole) = Session::new(&trainer, memory) else {
                continue;
            };
            let mut own = Session::new(&trainer, streaming).unwrap();
            let stop = 1 + (3 * i + 5 * j) % 14;
            for step in 0.. {
                let event = whole.advance().unwrap();
                assert_eq!(own.advance().unwrap(), event, "{place}");
                if event.is_none() {
                    break;
                }
                if step == stop {
                    // Taken up again from a file, by another model.
                    own.save(&path).unwrap();
                    let mut model = empty();
                    let zeros = TargetInit::RandomNormal { std: 0.0, seed: 0 };
                    model
                        .stream_dataset(data(N), folder.path(), &zeros)
                        .unwrap();
                    let again = Session::reopen(&trainer, model, &path).unwrap();
                    assert_eq!(again.state(), own.state(), "{place}");
                    assert_alike(again.model(), own.model(), &place);
                    own = again;
                }
            }
            assert_eq!(whole.state(), own.state(), "{place}");
            assert_alike(whole.model(), own.model(), &place);
            run += 1;
        }
    }
    assert!(run >= 45, "{run}");
    // Nothing is left in the folder but the last checkpoint.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn every_run_has_the_bits_of_one_in_memory() {
    runs_alike::<f32>();
    runs_alike::<f64>();
}

#[test]
fn a_whole_batch_and_several_blocks_have_the_same_bits() {
    // More examples than are evaluated, initialised, read or written at once.
    let (n, folder) = (1500, Folder::new("streamed-blocks"));
    let given = TargetInit::Given(vec![wave::<f64>(4, n), wave(3, n)]);
    let inits = [
        TargetInit::ForwardPass,
        noise(),
        TargetInit::RandomNormal { std: 0.5, seed: 7 },
        given,
    ];
    for init in &inits {
        let (mut memory, mut streaming) = (empty::<f64>(), empty());
        memory.add_dataset(&data(n), init).unwrap();
        streaming
            .stream_dataset(data(n), folder.path(), init)
            .unwrap();
        assert_alike(&memory, &streaming, &format!("{init:?}"));
        let (mut memory, mut streaming) = (in_memory(n), streamed(n, folder.path()));
        memory.initialize_targets(init).unwrap();
        streaming.initialize_targets(init).unwrap();
        assert_alike(&memory, &streaming, &format!("{init:?} anew"));
    }
    for scheme in schemes::<f64>() {
        for size in [n, 7] {
            let name = format!("{scheme:?} {size}");
            let phase = Phase::new(scheme_of(&name), Adam::new(1e-2).unwrap());
            let phase = phase.with_epochs(2).with_batch_size(size).unwrap();
            let trainer = Trainer::new(phase);
            let (mut memory, mut streaming) = (in_memory(n), streamed(n, folder.path()));
            let expected = trainer.run(&mut memory).unwrap().history;
            assert_eq!(trainer.run(&mut streaming).unwrap().history, expected);
            assert_alike(&memory, &streaming, &name);
        }
    }
}

/// The scheme that prints so.
fn scheme_of(name: &str) -> Box<dyn Scheme<f64>> {
    let mut all = schemes::<f64>().into_iter();
    let own = all.find(|own| name.starts_with(&format!("{own:?} ")));
    own.unwrap()
}

#[test]
fn what_is_computed_without_a_run_is_the_same() {
    let folder = Folder::new("streamed-values");
    let (mut memory, mut own) = (in_memory::<f64>(N), streamed(N, folder.path()));
    let some = Selection::Examples(&[8, 2, 3]);
    for selection in [Selection::All, Selection::Columns(2..7), some.clone()] {
        assert_eq!(memory.gradients(&selection), own.gradients(&selection));
        assert_eq!(memory.backprop(&selection), own.backprop(&selection));
        let point =
            |model: &DecoupledCircuit<f64>| model.joint_objective(&selection).unwrap().point();
        assert_eq!(point(&memory), point(&own));
        let options = Diagnostics::new().with_selection(selection.clone());
        assert_eq!(memory.diagnose(&options), own.diagnose(&options));
        let shards = [&memory, &own].map(|model| model.shard(1, &selection).unwrap());
        assert_eq!(shards[0], shards[1]);
        let z = [&memory, &own].map(|model| model.z_of(2, &selection).unwrap());
        assert_eq!(z[0], z[1]);
    }
    assert_eq!(memory.energies(), own.energies());
    assert_eq!(memory.composed_loss(), own.composed_loss());
    assert_eq!(memory.gap(), own.gap());
    let point = own.joint_objective(&some).unwrap().point();
    let moved: Vec<f64> = point.iter().map(|own| own + 0.125).collect();
    for model in [&mut memory, &mut own] {
        model
            .set_targets(1, &some, &DMatrix::from_element(4, 3, 0.5))
            .unwrap();
        model.set_joint_point(&some, &moved).unwrap();
        model.solve_targets(&ReverseSweep::new(2), &some).unwrap();
    }
    assert_alike(&memory, &own, "after changes");
}

#[test]
fn what_needs_memory_says_so() {
    let folder = Folder::new("streamed-errors");
    let mut model = streamed::<f64>(N, folder.path());
    let refused = |result: Result<(), Error>| match result {
        Err(error @ Error::NotInMemory { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let told = refused(model.z(1).map(|_| ()));
    assert_eq!(
        told,
        "a view of z needs the examples in memory, but those of this model are streamed"
    );
    refused(model.batch(0..2).map(|_| ()));
    refused(model.problem(0..2).map(|_| ()));
    refused(model.local_problem(1, 0..2).map(|_| ()));
    refused(GradCheck::default().circuit(&model).map(|_| ()));
    let solver = ReverseSweep::new(1);
    refused(theory::batch_dependent_example(&model, &Selection::All, &solver).map(|_| ()));
    refused(model.remove_examples(&[3]));
    let (x, y) = (wave(2, 3), wave(1, 3));
    refused(model.add_examples(&x, &y, &noise()).map(|_| ()));
    refused(model.add_dataset(&data(3), &noise()).map(|_| ()));
    let projected = Decoupling::<f64>::new(Targets::Projected { seed: 1 }, ZStep::None).unwrap();
    let phase = Phase::new(projected, Adam::new(1e-2).unwrap()).with_epochs(1);
    refused(Trainer::new(phase).check(&model));
    let memory = model.memory(4).unwrap();
    assert_eq!((memory.targets, memory.data), (0, 0));
    // Nor a second data set, a projection, other dimensions, a value that is not finite.
    let stream = |model: &mut DecoupledCircuit<f64>, data, init: &TargetInit<f64>| {
        model
            .stream_dataset(data, folder.path(), init)
            .unwrap_err()
            .to_string()
    };
    let told = stream(&mut model, data(3), &noise());
    assert!(
        told.contains("a streamed data set with other examples"),
        "{told}"
    );
    let told = stream(&mut in_memory(2), data(3), &noise());
    assert!(
        told.contains("a streamed data set with other examples"),
        "{told}"
    );
    let told = stream(&mut empty(), data(3), &TargetInit::Projected { seed: 1 });
    assert!(
        told.contains("projected targets of streamed examples"),
        "{told}"
    );
    let wide = Arc::new(InMemory::new(wave::<f64>(3, 4), wave(1, 4)).unwrap());
    let told = stream(&mut empty(), wide, &noise());
    assert!(told.contains("inputs of a data set"), "{told}");
    let mut x = wave(2, 1500);
    x[(1, 1400)] = f64::NAN;
    let mut bad = empty();
    let data = Arc::new(InMemory::new(x, wave(1, 1500)).unwrap());
    let told = stream(&mut bad, data, &noise());
    assert_eq!(
        told,
        "input of layer 0 at row 1, column 1400 is NaN, but must be finite"
    );
    assert!(bad.examples().is_empty() && bad.z(0).is_ok());
    let missing = empty::<f64>().stream_dataset(
        Arc::new(InMemory::new(wave::<f64>(2, 4), wave(1, 4)).unwrap()),
        folder.file("missing"),
        &noise(),
    );
    let told = missing.unwrap_err().to_string();
    assert!(told.starts_with("a file of targets in "), "{told}");
    assert!(told.contains("could not be created"), "{told}");
}

/// No file of targets is filled, and every number is that of a run in memory.
#[test]
fn computed_targets_are_not_stored_either() {
    let folder = Folder::new("streamed-computed");
    let init = TargetInit::<f64>::Computed;
    let mut memory = empty();
    memory.add_dataset(&data::<f64>(N), &init).unwrap();
    let mut own = empty();
    own.stream_dataset(data(N), folder.path(), &init).unwrap();
    let phase = Phase::new(
        Decoupling::refreshed(ReverseSweep::new(1)),
        Adam::new(0.02).unwrap(),
    );
    let trainer = Trainer::new(phase.with_epochs(3).with_batch_size(4).unwrap());
    for model in [&mut memory, &mut own] {
        trainer.run(model).unwrap();
    }
    assert_alike(&memory, &own, "computed");
    let some = Selection::Examples(&[7, 2]);
    assert_eq!(memory.gradients(&some), own.gradients(&some));
    let objectives = [&memory, &own].map(|model| model.joint_objective(&some).unwrap().point());
    assert_eq!(objectives[0], objectives[1]);
    // From the file of one into another; not into one whose targets are stored.
    let bytes = own.to_bytes().unwrap();
    let path = folder.file("model");
    fs::write(&path, &bytes).unwrap();
    let mut again = empty();
    again.stream_dataset(data(N), folder.path(), &init).unwrap();
    again.load(&path).unwrap();
    assert_alike(&again, &own, "from a file");
    let mut stored = streamed::<f64>(N, folder.path());
    let told = stored.load(&path).unwrap_err().to_string();
    assert!(told.contains("the targets of streamed examples"), "{told}");
    let moved: Vec<f64> = objectives[0].iter().map(|own| own + 0.125).collect();
    for model in [&mut memory, &mut own] {
        let error = model.set_joint_point(&some, &moved).unwrap_err();
        assert!(matches!(error, Error::TargetsNotStored { .. }), "{error:?}");
    }
    assert_alike(&memory, &own, "after a refusal");
    assert_eq!(own.joint_objective(&some).unwrap().point(), objectives[0]);
    let error = stored.initialize_targets(&init).unwrap_err();
    assert!(matches!(error, Error::Combination { .. }), "{error:?}");
    let error = own.initialize_targets(&noise()).unwrap_err();
    assert!(matches!(error, Error::Combination { .. }), "{error:?}");
    // What is read is checked all the same.
    let mut x = wave(2, 1500);
    x[(1, 1400)] = f64::NAN;
    let bad = Arc::new(InMemory::new(x, wave(1, 1500)).unwrap());
    let refused = empty::<f64>().stream_dataset(bad, folder.path(), &init);
    assert!(
        matches!(refused, Err(Error::NonFiniteData { column: 1400, .. })),
        "{refused:?}"
    );
}

#[test]
fn clones_are_snapshots() {
    let folder = Folder::new("streamed-clone");
    let mut model = streamed::<f64>(N, folder.path());
    let before = values(&model);
    let (mut kept, mut moved) = (model.clone(), model.clone());
    let new = DMatrix::from_element(4, N, 0.5);
    model.set_targets(1, &Selection::All, &new).unwrap();
    assert_eq!(model.z_of(1, &Selection::All).unwrap(), new);
    assert_eq!(model.z_of(2, &Selection::All).unwrap(), before.2[2]);
    assert_eq!(values(&kept), before);
    let (mut first, mut second) = (in_memory::<f64>(N), in_memory(N));
    plain().run(&mut first).unwrap();
    plain().run(&mut moved).unwrap();
    assert_alike(&moved, &first, "a run of a clone");
    assert_eq!(values(&kept), before);
    // The last one has the first file.
    drop((model, moved));
    let refreshed = || {
        let phase = Phase::new(
            Decoupling::refreshed(ReverseSweep::new(1)),
            Adam::new(1e-2).unwrap(),
        );
        Trainer::new(phase.with_epochs(2).with_batch_size(4).unwrap())
    };
    refreshed().run(&mut kept).unwrap();
    refreshed().run(&mut second).unwrap();
    assert_alike(&kept, &second, "a run of the last");
}

/// A visit whose targets could not be written is no visit of a window.
#[test]
fn a_failed_write_does_not_count_for_growing_penalties() {
    let folder = Folder::new("streamed-growth");
    let (targets, away) = (folder.file("targets"), folder.file("away"));
    fs::create_dir(&targets).unwrap();
    let scheme = Decoupling::persistent(ReverseSweep::new(1));
    let phase = Phase::with_w_step(scheme, WStep::none()).unwrap();
    let phase = phase.with_epochs(4).with_batch_size(4).unwrap();
    let growth = PenaltyGrowth::new(2).unwrap();
    let trainer = Trainer::new(phase.with_penalty_growth(growth).unwrap());
    let outcome = |model: DecoupledCircuit<f64>, fails: bool| {
        let held = model.clone();
        let mut session = Session::new(&trainer, model).unwrap();
        if fails {
            fs::rename(&targets, &away).unwrap();
            session.advance().unwrap_err();
            fs::rename(&away, &targets).unwrap();
        }
        let mut penalties = Vec::new();
        while let Some(event) = session.advance().unwrap() {
            if let Event::Visit(_) = event {
                penalties.push(session.model().terms().penalties().to_vec());
            }
        }
        drop(held);
        (penalties, values(session.model()))
    };
    let whole = outcome(streamed(N, &targets), false);
    assert!(whole.0.last() > whole.0.first(), "{:?}", whole.0);
    assert_eq!(outcome(streamed(N, &targets), true), whole);
}

/// Writes every second value.
#[derive(Debug)]
struct Forgetful;

impl Dataset<f64> for Forgetful {
    fn len(&self) -> usize {
        8
    }
    fn inputs(&self) -> usize {
        2
    }
    fn targets(&self) -> usize {
        1
    }
    fn read(&self, rows: &[usize], x: &mut [f64], y: &mut [f64]) -> Result<(), Error> {
        self.check_read(rows, x, y)?;
        x.fill(0.5);
        y.iter_mut().step_by(2).for_each(|y| *y = 1.0);
        Ok(())
    }
}

#[test]
fn a_value_that_is_not_written_is_not_taken_for_another() {
    let folder = Folder::new("streamed-forgetful");
    let mut model = empty::<f64>();
    let told = [
        model.add_dataset(&Forgetful, &noise()).unwrap_err(),
        model
            .stream_dataset(Arc::new(Forgetful), folder.path(), &noise())
            .unwrap_err(),
    ];
    assert_eq!(told[0].to_string(), told[1].to_string());
    assert!(matches!(told[0], Error::NonFiniteData { column: 1, .. }));
}

/// Some examples, and another number of them once `len` has been called so often.
#[derive(Debug)]
struct Unsteady {
    counts: [usize; 2],
    steady: AtomicUsize,
}

impl Unsteady {
    fn new(counts: [usize; 2], calls: usize) -> Self {
        Self {
            counts,
            steady: AtomicUsize::new(calls),
        }
    }
}

impl Dataset<f64> for Unsteady {
    fn len(&self) -> usize {
        let steady = self.steady.load(Ordering::Relaxed);
        self.steady
            .store(steady.saturating_sub(1), Ordering::Relaxed);
        self.counts[usize::from(steady == 0)]
    }
    fn inputs(&self) -> usize {
        2
    }
    fn targets(&self) -> usize {
        1
    }
    fn read(&self, rows: &[usize], x: &mut [f64], y: &mut [f64]) -> Result<(), Error> {
        let count = self.counts[0];
        if let Some(&row) = rows.iter().find(|&&row| row >= count) {
            return Err(Error::UnknownRow { row, count });
        }
        x.fill(0.5);
        y.fill(1.0);
        Ok(())
    }
}

#[test]
fn a_data_set_whose_length_changes_is_refused() {
    let folder = Folder::new("streamed-unsteady");
    for counts in [[8, 300], [300, 8], [8, usize::MAX], [0, usize::MAX]] {
        let data = || Unsteady::new(counts, 1);
        let mut model = empty::<f64>();
        let told = [
            model
                .stream_dataset(Arc::new(data()), folder.path(), &noise())
                .unwrap_err(),
            model.add_dataset(&data(), &noise()).unwrap_err(),
        ];
        assert_eq!(told[0].to_string(), told[1].to_string());
        let Error::Length {
            expected, found, ..
        } = told[0]
        else {
            panic!("{}", told[0]);
        };
        assert_eq!([expected, found], counts);
        assert!(model.examples().is_empty());
    }
}

#[test]
fn more_rows_than_memory_can_number_are_refused() {
    let folder = Folder::new("streamed-endless");
    let data = || Arc::new(Unsteady::new([usize::MAX; 2], 1));
    let layer = Dense::new(2, 1, Activation::Identity).unwrap();
    let one = Circuit::<f64>::builder().layer(layer).build().unwrap();
    let mut models = [
        DecoupledCircuit::new(one, Energy::default()).unwrap(),
        empty(),
    ];
    for model in &mut models {
        let error = model
            .stream_dataset(data(), folder.path(), &noise())
            .unwrap_err();
        let columns = usize::MAX;
        assert!(
            matches!(error, Error::TooLarge { columns: found, .. } if found == columns),
            "{error}"
        );
    }
}

#[test]
fn rows_that_come_later_are_not_examples() {
    let folder = Folder::new("streamed-later");
    let data = Arc::new(Unsteady::new([8, 300], usize::MAX));
    let mut model = empty::<f64>();
    model
        .stream_dataset(data.clone(), folder.path(), &noise())
        .unwrap();
    let before = values(&model);
    data.steady.store(0, Ordering::Relaxed);
    model.initialize_targets(&noise()).unwrap();
    assert_eq!(values(&model), before);
    model.set_targets(1, &Selection::All, &before.2[1]).unwrap();
    let mut copy = model.clone();
    copy.initialize_targets(&TargetInit::ForwardPass).unwrap();
    assert_eq!((values(&model), copy.examples().len()), (before, 8));
}

#[test]
fn a_run_whose_data_are_gone_can_be_stopped() {
    let folder = Folder::new("streamed-gone");
    let flag = |on| Arc::new(AtomicBool::new(on));
    let fails = flag(false);
    let moody = Moody {
        good: InMemory::new(wave(2, N), wave(1, N)).unwrap(),
        fails: fails.clone(),
        panics: flag(false),
        ahead: Arc::new(AtomicUsize::new(0)),
    };
    let mut model = empty();
    let data = Arc::new(moody);
    model.stream_dataset(data, folder.path(), &noise()).unwrap();
    let mut session = Session::new(&plain(), model).unwrap();
    session.advance().unwrap();
    fails.store(true, Ordering::Relaxed);
    while session.advance().is_ok() {}
    session.stop();
    let report = session.run().unwrap();
    assert!(session.is_over() && report.steps > 0);
}

#[test]
fn files_of_streamed_models_need_their_data() {
    let folder = Folder::new("streamed-files");
    let path = folder.file("model");
    let model = streamed::<f64>(N, folder.path());
    model.save(&path).unwrap();
    // Python sees arrays as those of any model.
    let bytes = fs::read(&path).unwrap();
    assert_eq!(bytes, model.to_bytes().unwrap());
    let arrays = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(arrays.tensor("examples.z2").unwrap().shape(), [N, 3]);
    assert!(arrays.tensor("examples.z0").is_err());
    let z = model.z_of(2, &Selection::All).unwrap();
    let rows: Vec<u8> = z.iter().flat_map(|own| own.to_le_bytes()).collect();
    assert_eq!(arrays.tensor("examples.z2").unwrap().data(), rows);
    let mut own = streamed::<f64>(N, folder.path());
    own.initialize_targets(&TargetInit::ForwardPass).unwrap();
    own.load(&path).unwrap();
    assert_alike(&own, &model, "loaded");
    // The circuit alone needs none.
    let circuit = Circuit::<f64>::open(&path, &Registry::new()).unwrap();
    assert_eq!(circuit.parameters(1), model.circuit().parameters(1));
    let differs = |result: Result<(), Error>, what: &str| {
        let told = result.unwrap_err().to_string();
        assert!(told.contains(what), "{told}");
    };
    let place = "the place of the examples";
    differs(in_memory::<f64>(N).load(&path), place);
    differs(
        DecoupledCircuit::<f64>::open(&path, &Registry::new()).map(|_| ()),
        place,
    );
    let mut other = streamed::<f64>(N + 1, folder.path());
    let before = values(&other);
    differs(other.load(&path), "the number of examples");
    in_memory::<f64>(N + 1).save(&path).unwrap();
    differs(other.load(&path), place);
    assert_eq!(values(&other), before);
}

/// A data set that fails at times, or panics.
#[derive(Debug)]
struct Moody {
    good: InMemory<DMatrix<f64>>,
    fails: Arc<AtomicBool>,
    panics: Arc<AtomicBool>,
    /// Reads by threads that have this library's name.
    ahead: Arc<AtomicUsize>,
}

impl Dataset<f64> for Moody {
    fn len(&self) -> usize {
        Dataset::<f64>::len(&self.good)
    }
    fn inputs(&self) -> usize {
        Dataset::<f64>::inputs(&self.good)
    }
    fn targets(&self) -> usize {
        Dataset::<f64>::targets(&self.good)
    }
    fn read(&self, rows: &[usize], x: &mut [f64], y: &mut [f64]) -> Result<(), Error> {
        let thread = std::thread::current();
        if thread.name() == Some("layerwise read-ahead") {
            self.ahead.fetch_add(1, Ordering::Relaxed);
        }
        assert!(
            !self.panics.load(Ordering::Relaxed),
            "a panic of the data set"
        );
        if self.fails.load(Ordering::Relaxed) {
            return Err(Error::File {
                file: "the data".into(),
                doing: "read",
                reason: "gone".into(),
            });
        }
        self.good.read(rows, x, y)
    }
}

#[test]
fn the_next_batch_is_read_on_a_thread_and_errors_lose_nothing() {
    let folder = Folder::new("streamed-moody");
    let flags = || Arc::new(AtomicBool::new(false));
    let (fails, panics, ahead) = (flags(), flags(), Arc::new(AtomicUsize::new(0)));
    let moody = Moody {
        good: InMemory::new(wave(2, N), wave(1, N)).unwrap(),
        fails: fails.clone(),
        panics: panics.clone(),
        ahead: ahead.clone(),
    };
    let mut model = empty();
    model
        .stream_dataset(Arc::new(moody), folder.path(), &noise())
        .unwrap();
    let mut whole = Session::new(&plain(), in_memory::<f64>(N)).unwrap();
    let mut session = Session::new(&plain(), model).unwrap();
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut visits = 0;
    while let Some(event) = whole.advance().unwrap() {
        if matches!(event, Event::Visit(_)) {
            visits += 1;
            let flag = if visits % 2 == 0 { &fails } else { &panics };
            let before = (session.state().visits(), session.model().circuit().clone());
            flag.store(visits < 8, Ordering::Relaxed);
            let advance = std::panic::AssertUnwindSafe(|| session.advance());
            let mut failed = 0;
            // What was read ahead before the failure is visited.
            let mut advanced = std::panic::catch_unwind(advance);
            while !matches!(advanced, Ok(Ok(_))) {
                failed += 1;
                assert!(failed < 3);
                assert_eq!(session.state().visits(), before.0);
                assert_eq!(
                    session.model().circuit().parameters(0),
                    before.1.parameters(0)
                );
                flag.store(false, Ordering::Relaxed);
                let advance = std::panic::AssertUnwindSafe(|| session.advance());
                advanced = std::panic::catch_unwind(advance);
            }
            flag.store(false, Ordering::Relaxed);
            assert!(matches!(advanced, Ok(Ok(Some(found))) if found == event));
        } else {
            assert_eq!(session.advance().unwrap(), Some(event));
        }
    }
    std::panic::set_hook(quiet);
    assert_alike(whole.model(), session.model(), "after failures");
    assert!(ahead.load(Ordering::Relaxed) > 0);
}

#[test]
fn a_circuit_of_one_layer_and_an_empty_data_set_have_no_targets() {
    let folder = Folder::new("streamed-small");
    let circuit = Circuit::<f64>::builder()
        .layer(Dense::new(2, 1, Activation::Identity).unwrap())
        .build()
        .unwrap();
    let mut model = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
    let mut memory = model.clone();
    let init = TargetInit::ForwardPass;
    model.stream_dataset(data(N), folder.path(), &init).unwrap();
    memory.add_dataset(&data(N), &init).unwrap();
    let phase = Phase::new(layerwise::training::Backprop, Adam::new(1e-2).unwrap());
    let trainer = Trainer::new(phase.with_epochs(2).with_batch_size(3).unwrap());
    trainer.run(&mut model).unwrap();
    trainer.run(&mut memory).unwrap();
    assert_alike(&model, &memory, "one layer");
    let mut model = empty::<f64>();
    model.stream_dataset(data(0), folder.path(), &init).unwrap();
    assert!(matches!(model.energy(), Err(Error::NoExamples { .. })));
}

/// Keeps targets, but begins a phase with others.
#[derive(Debug)]
struct Anew(Decoupling<f64>);

impl Scheme<f64> for Anew {
    fn start(&self, model: &mut DecoupledCircuit<f64>) -> Result<State<f64>, Error> {
        model.initialize_targets(&TargetInit::RandomNormal { std: 1.0, seed: 5 })?;
        self.0.start(model)
    }
    fn visit(&self, state: &mut State<f64>, visit: &mut Visit<'_, f64>) -> Result<f64, Error> {
        self.0.visit(state, visit)
    }
}

/// Sleeps after the first visit of the second of two epochs, until the time of the phase is over.
#[derive(Debug)]
struct Sleeps(Duration);

impl Observer<f64> for Sleeps {
    fn observe(&mut self, event: &Event<f64>, run: &Progress<'_, f64>) -> Result<(), Error> {
        if matches!(event, Event::Visit(_)) && run.visits == 4 {
            std::thread::sleep(self.0);
        }
        Ok(())
    }
}

#[test]
fn a_batch_that_was_read_ahead_is_not_used_in_another_epoch() {
    let folder = Folder::new("streamed-stale");
    let limit = Duration::from_millis(400);
    for seed in 0..5 {
        let phase = |scheme: Box<dyn Scheme<f64>>| {
            let phase = Phase::new(scheme, Adam::new(1e-2).unwrap()).with_epochs(2);
            phase.with_batch_size(1).unwrap()
        };
        let persistent = || Decoupling::persistent(ReverseSweep::new(1));
        // Of three examples, the second of one order is often the first of the next.
        let first = phase(Box::new(persistent())).with_time_limit(limit);
        let second = phase(Box::new(Anew(persistent())));
        // Measuring would read other examples in between.
        let trainer = Trainer::new(first).then(second).with_seed(seed);
        let trainer = trainer.with_measure_every(0);
        let [memory, streaming] = [in_memory(3), streamed(3, folder.path())].map(|model| {
            let mut session = Session::new(&trainer, model).unwrap();
            session.observe(Sleeps(limit));
            let report = session.run().unwrap();
            let visits = report
                .phases
                .iter()
                .map(|own| own.steps)
                .collect::<Vec<_>>();
            (session.finish().0, visits)
        });
        assert_eq!(streaming.1, memory.1, "{seed}");
        assert_alike(&memory.0, &streaming.0, &format!("{seed}"));
    }
}

/// Fails when it is told to, once.
#[derive(Debug)]
struct Fails(Decoupling<f64>, Arc<AtomicBool>);

impl Scheme<f64> for Fails {
    fn start(&self, model: &mut DecoupledCircuit<f64>) -> Result<State<f64>, Error> {
        self.0.start(model)
    }
    fn visit(&self, state: &mut State<f64>, visit: &mut Visit<'_, f64>) -> Result<f64, Error> {
        if self.1.swap(false, Ordering::Relaxed) {
            return Err(Error::NoExamples {
                operation: "a test",
            });
        }
        self.0.visit(state, visit)
    }
}

#[test]
fn a_visit_is_repeated_on_its_own_examples() {
    let folder = Folder::new("streamed-repeated");
    let fails = Arc::new(AtomicBool::new(false));
    let trainer = |fails: &Arc<AtomicBool>| {
        let scheme = Fails(Decoupling::persistent(ReverseSweep::new(1)), fails.clone());
        let phase = Phase::new(scheme, Adam::new(1e-2).unwrap()).with_epochs(2);
        Trainer::new(phase.with_batch_size(2).unwrap())
    };
    let mut memory = in_memory(N);
    trainer(&fails).run(&mut memory).unwrap();
    let mut session = Session::new(&trainer(&fails), streamed(N, folder.path())).unwrap();
    let mut failed = 0;
    for event in 0.. {
        fails.store(event % 2 == 0, Ordering::Relaxed);
        match session.advance() {
            Ok(None) => break,
            Ok(Some(_)) => {}
            Err(_) => failed += 1,
        }
    }
    assert!(failed > 5);
    assert_alike(session.model(), &memory, "after failures");
}
