//! Symmetric tridiagonal matrices, as the Lanczos method builds them.

/// The matrix of a Lanczos process, one row and column per step.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tridiagonal {
    diagonal: Vec<f64>,
    /// The off-diagonal; one entry fewer than the diagonal.
    couplings: Vec<f64>,
    /// The last coupling, for the next step.
    coupling: f64,
    /// The dimension of the Lanczos vectors, which bounds the number of steps.
    dimension: usize,
    /// Whether further steps have nothing to add.
    ended: bool,
}

impl Tridiagonal {
    pub(crate) fn new(dimension: usize) -> Self {
        let mut own = Self::default();
        own.begin(dimension);
        own
    }

    /// Empties the matrix for another process; keeps its memory.
    pub(crate) fn begin(&mut self, dimension: usize) {
        self.diagonal.clear();
        self.couplings.clear();
        (self.coupling, self.dimension, self.ended) = (0.0, dimension, dimension == 0);
    }

    /// Number of rows.
    pub(crate) fn len(&self) -> usize {
        self.diagonal.len()
    }

    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    /// Ends the process.
    pub(crate) fn end(&mut self) {
        self.ended = true;
    }

    /// Adds a step: its diagonal entry, and the coupling to the next one. `epsilon` is the rounding
    /// error of the process.
    pub(crate) fn push(&mut self, alpha: f64, coupling: f64, epsilon: f64) {
        if !self.diagonal.is_empty() {
            self.couplings.push(self.coupling);
        }
        self.diagonal.push(alpha);
        self.coupling = coupling;
        // Once the Krylov space is exhausted, only rounding errors remain.
        let size = self.diagonal.iter().chain(&self.couplings);
        let size = size.fold(0.0, |top: f64, v| top.max(v.abs()));
        let goes_on = coupling.is_finite() && coupling > 4.0 * epsilon * size;
        self.ended = !goes_on || self.diagonal.len() == self.dimension;
    }

    /// Whether all entries are finite.
    pub(crate) fn is_finite(&self) -> bool {
        let mut all = self.diagonal.iter().chain(&self.couplings);
        all.all(|v| v.is_finite())
    }

    /// The largest eigenvalue, by bisection, rounded down; NaN if an entry is not finite.
    pub(crate) fn largest(&self) -> f64 {
        self.extreme(1.0)
    }

    /// The smallest eigenvalue, by bisection, rounded up; NaN if an entry is not finite.
    pub(crate) fn smallest(&self) -> f64 {
        -self.extreme(-1.0)
    }

    /// The largest eigenvalue of the matrix times `sign`, which is 1 or −1.
    fn extreme(&self, sign: f64) -> f64 {
        if !self.is_finite() {
            return f64::NAN;
        }
        let row = |i: usize| {
            let before = i.checked_sub(1).map_or(0.0, |i| self.couplings[i]);
            let after = self.couplings.get(i).copied().unwrap_or(0.0);
            sign * self.diagonal[i] + before + after
        };
        // Start from the largest Rayleigh quotient of a basis vector and from Gershgorin's bound.
        let diagonal = self.diagonal.iter().map(|alpha| sign * alpha);
        let mut low = diagonal.fold(f64::MIN, f64::max);
        let mut high = (0..self.diagonal.len()).map(row).fold(low, f64::max);
        loop {
            let middle = low + 0.5 * (high - low);
            if !(low < middle && middle < high) {
                return low;
            }
            match self.is_below(sign, middle) {
                true => high = middle,
                false => low = middle,
            }
        }
    }

    /// Whether all eigenvalues of the matrix times `sign` are below x, that is, every pivot of that
    /// matrix minus x I is negative.
    fn is_below(&self, sign: f64, x: f64) -> bool {
        let mut pivot = sign * self.diagonal[0] - x;
        for (alpha, beta) in self.diagonal[1..].iter().zip(&self.couplings) {
            if pivot >= 0.0 {
                return false;
            }
            // Not beta², which may overflow or underflow.
            pivot = sign * alpha - x - beta / pivot * beta;
        }
        pivot < 0.0
    }

    /// `solution` ← (I + T/μ)⁻¹ e_1, for a positive semidefinite T.
    pub(crate) fn solve(&self, mu: f64, solution: &mut Vec<f64>) {
        solution.clear();
        solution.resize(self.len(), 0.0);
        let coupling = |i: usize| self.couplings[i] / mu;
        // Eliminate from the last row up, so that the right-hand side stays e_1.
        let mut below = f64::INFINITY;
        for i in (0..self.len()).rev() {
            let taken = match i + 1 < self.len() {
                true => coupling(i) / below * coupling(i),
                false => 0.0,
            };
            // The pivots of I plus a semidefinite matrix are at least 1, but for rounding.
            below = (1.0 + self.diagonal[i] / mu - taken).max(1.0);
            solution[i] = below;
        }
        let mut above = 1.0;
        for (i, own) in solution.iter_mut().enumerate() {
            if i > 0 {
                above *= -coupling(i - 1);
            }
            above /= *own;
            *own = above;
        }
    }
}
