//! Circuits, models and runs in files (feature `storage`).
//!
//! Every file is a [safetensors](https://docs.rs/safetensors) file: named arrays behind a JSON
//! header, which Python opens with `safetensors.numpy`. The header's metadata entry `layerwise` is a
//! JSON text with the format's version, a checksum of everything else, the scalar type, the seed,
//! and a readable [`Description`](crate::description::Description) of every layer and loss.
//!
//! | to keep | write | read |
//! |---|---|---|
//! | layers and θ, to predict with | [`Circuit::save`] | [`Circuit::open`], [`Circuit::load`] |
//! | also losses, μ, regularisers, examples and their targets | [`DecoupledCircuit::save`] | [`DecoupledCircuit::open`], [`DecoupledCircuit::load`] |
//! | also the state of a run, to continue it with the same bits | [`Session::save`], [`Session::checkpoint_every`] | [`Session::reopen`] |
//! | weights from elsewhere, such as PyTorch | | [`Circuit::load_tensors`] |
//!
//! A file of a lower row can be read as one of those above it. `open` builds the layers from the
//! file, and needs a [`Registry`](crate::registry::Registry) for layers of your own. `load` replaces
//! the values of a circuit that is already there, and checks that it is built like the saved one.
//! The scalar type must be the saved one too, except in [`Circuit::load_tensors`].
//!
//! Parameters of layer t are the arrays `t.group`, such as `0.weights`; those of its loss are
//! `t.loss.group`. Arrays have the shapes of their
//! [`ParameterGroup`](crate::layer::ParameterGroup)s, in row-major order as safetensors requires:
//! the weights of a dense layer are those of PyTorch's `Linear`. z_t of n examples is the array
//! `examples.z` + t, n × d_t.
//!
//! Files of models with streamed examples
//! ([`stream_dataset`](crate::DecoupledCircuit::stream_dataset)) contain z_1, …, z_{T−1}, but not
//! the data; they are read into a model that streams the same data set. Neither writing nor reading
//! loads the targets into memory.
//!
//! Files are replaced as a whole: the new file is written beside the old one, with `.partial` at
//! the end of its name, flushed to the disk, and renamed. After a crash at any moment there is the
//! old file or the new one. On Unix the new file has the permissions of the old one, but the owner
//! is whoever writes it. A link stays: the file that it points to is replaced, or created. Anything
//! that is not a regular file, such as a folder or a device, is not replaced.
//!
//! Damaged, truncated, foreign or newer files are errors, and so are entries of the manifest that this
//! version does not know. Nothing is changed by reading them.
//!
//! # Examples
//! ```
//! use layerwise::prelude::*;
//! use layerwise::registry::Registry;
//!
//! let circuit = Circuit::<f64>::builder()
//!     .layer(Dense::new(2, 3, Activation::Tanh)?)
//!     .layer(Dense::new(3, 1, Activation::Identity)?)
//!     .build()?;
//! let path = std::env::temp_dir().join("layerwise-example.safetensors");
//! circuit.save(&path)?;
//!
//! // In the program that serves it:
//! let served = Circuit::<f64>::open(&path, &Registry::new())?;
//! let x = DMatrix::from_element(2, 1, 0.5);
//! assert_eq!(served.predict(&x)?, circuit.predict(&x)?);
//! # std::fs::remove_file(&path).unwrap();
//! # Ok::<(), Error>(())
//! ```
//!
//! [`Circuit::save`]: crate::Circuit::save
//! [`Circuit::open`]: crate::Circuit::open
//! [`Circuit::load`]: crate::Circuit::load
//! [`Circuit::load_tensors`]: crate::Circuit::load_tensors
//! [`DecoupledCircuit::save`]: crate::DecoupledCircuit::save
//! [`DecoupledCircuit::open`]: crate::DecoupledCircuit::open
//! [`DecoupledCircuit::load`]: crate::DecoupledCircuit::load
//! [`Session::save`]: crate::training::Session::save
//! [`Session::reopen`]: crate::training::Session::reopen
//! [`Session::checkpoint_every`]: crate::training::Session::checkpoint_every

mod checkpoint;
mod circuit;
mod container;
mod model;
mod stored;

pub use stored::Stored;
