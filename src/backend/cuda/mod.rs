//! The CUDA backend: hand-written kernels (`cuda/*.cu`) for everything about S(gamma), cuBLAS for dense products,
//! cuSOLVER for eigenvalues.
//!
//! No CUDA library is linked; [`probe`] says which devices can be used, or why none can. Work is enqueued on one stream;
//! only what returns numbers to the host waits for it. Partial results are merged in a fixed order, so results are the
//! same to the bit from run to run on the same device.
//!
//! Of several ranks ([`Cuda::with_group`]) each has a device, some of the rows, and the embeddings of all rows while a
//! pass needs them. What moves between them goes from device to device through NCCL where the ranks have it
//! ([`Cuda::connected`]), else through the host and the group's transport.

mod blas;
mod channel;
mod device;
mod driver;
mod features;
mod gradients;
mod grid;
mod hopper;
mod host;
mod kernel_set;
mod kernels;
mod lent;
mod link;
mod masked;
mod matrix;
mod memory;
mod nccl;
mod panels;
mod params;
mod pieces;
mod places;
mod precision;
mod probe;
mod problem;
mod products;
mod ranks;
mod rate;
mod retrieval;
mod rows;
mod solver;
mod spectral;
mod stored;
mod stream;
mod sums;
mod sweeps;
mod transfer;
mod values;
mod weight_panels;

pub use kernel_set::KernelSet;
pub use lent::{LentMatrix, Place};
pub use matrix::Matrix;
pub(crate) use matrix::depth_of;
pub use nccl::nccl_version;
pub use precision::Mode;
pub use probe::{DeviceInfo, probe};
pub(crate) use ranks::PIECE;
pub use stream::BorrowedStream;

use crate::backend::{Arithmetic, Backend, Reader, Similarity, Standing, TopK, directions};
use crate::control::{Control, Phase, Progress};
use crate::distributed::Group;
use crate::error::Result;
use crate::io::{Duplicates, RowSource, Survey};
use crate::kernel::Kernel;
use crate::loss::Loss;
use crate::positives::Positives;
use crate::similarity::gradients::gradients;
use crate::similarity::{NegativeSampling, Weights, pass1, pass2};
use crate::spectral::{SvdMethod, TopR};
use device::Device;
use faer::{Mat, MatRef};
use std::ops::Range;
use std::sync::Arc;
use stream::Event;

/// How a device is opened.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Arithmetic of similarities and weights.
    pub mode: Mode,
    /// The caller's stream; `None`: one of our own.
    pub stream: Option<BorrowedStream>,
    /// Most bytes of device memory to hold at a time; `None`: what the device has.
    pub memory_limit: Option<u64>,
    /// Which kernels compute the clip loss.
    pub kernels: KernelSet,
    /// Progress and cancellation.
    pub control: Arc<Control>,
}

/// The CUDA backend on one device. Clones share it.
#[derive(Clone)]
pub struct Cuda {
    device: Arc<Device>,
    mode: Mode,
    control: Arc<Control>,
    group: Group,
    link: Option<Arc<link::Link>>,
}

impl std::fmt::Debug for Cuda {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.describe())
    }
}

impl Cuda {
    /// Opens a device. In a child of `fork()` it cannot be used, nor can one be opened there if the parent has: every
    /// operation is then [`Unsupported`](crate::Error::Unsupported).
    ///
    /// # Errors
    /// As [`probe`], and [`NoDevice`](crate::Error::NoDevice) when there is no such device or it is older than compute capability 8.0.
    pub fn open(device: u32, options: Options) -> Result<Self> {
        crate::dense::settle();
        let Options { mode, stream, memory_limit, kernels, control } = options;
        let device = Device::open(device, stream, memory_limit, kernels)?;
        Ok(Self { device, mode, control, group: Group::default(), link: None })
    }

    /// The same device as that of one of the ranks of `group`: its matrices hold some of the rows, and every operation is a
    /// collective, which all ranks call in the same order with the same arguments.
    ///
    /// Ranks may share a device. Their data passes through the host, where the group's transport moves it. Results do not
    /// depend on the number of ranks beyond rounding, for sums over rows in fp32 are cut elsewhere: in fp32 mode the product of
    /// the encoders of a fit stays within 1e-4 of that of one rank, and the loss within 1e-5. With one number of ranks
    /// they are the same to the bit from run to run, and on all ranks.
    pub fn with_group(self, group: Group) -> Self {
        Self { group, link: None, ..self }
    }

    /// As [`with_group`](Self::with_group), with data that moves from device to device through NCCL where all ranks have it,
    /// of one version, and each a device of its own. Otherwise, and why: through the host. `UNICON_NCCL` decides too: `off`,
    /// `require`, or the path of a `libnccl.so.2`; results are the same to the bit. A collective.
    ///
    /// NCCL takes memory on the device that [`Options::memory_limit`] does not count.
    ///
    /// # Errors
    /// [`Unsupported`](crate::Error::Unsupported) with `UNICON_NCCL=require` on any rank where it cannot be used;
    /// [`Comm`](crate::Error::Comm).
    pub fn connected(self, group: Group) -> Result<(Self, Option<String>)> {
        if group.size() == 1 {
            return Ok((self.with_group(group), None));
        }
        Ok(match link::connect(&self.device.stream, &group)? {
            Ok(link) => (Self { group, link: Some(link), ..self }, None),
            Err(why) => (self.with_group(group), Some(why)),
        })
    }

    /// The NCCL that data of several ranks moves through, such as 2.28.5; none: it passes through the host.
    pub fn nccl(&self) -> Option<String> {
        self.link.as_ref().map(|link| link.version())
    }

    /// What was opened.
    pub fn device(&self) -> &DeviceInfo {
        &self.device.info
    }

    /// Arithmetic of similarities and weights.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The kernels that compute the clip loss: [`Hopper`](KernelSet::Hopper) or [`Portable`](KernelSet::Portable).
    pub fn kernels(&self) -> KernelSet {
        if self.device.hopper { KernelSet::Hopper } else { KernelSet::Portable }
    }

    /// The same device opened anew with other kernels, on a stream of its own, outside of any group.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`Unsupported`](crate::Error::Unsupported) where the kernels do not run.
    pub fn with_kernels(&self, kernels: KernelSet) -> Result<Self> {
        let (mode, control) = (self.mode, self.control.clone());
        Self::open(self.device.info.ordinal, Options { mode, kernels, control, ..Options::default() })
    }

    /// Fails in a child of `fork()`.
    pub(crate) fn alive(&self) -> Result<()> {
        self.device.enter()
    }

    /// Makes the peak of [`Backend::memory`] what is held now.
    pub fn forget_peak(&self) {
        self.device.account.forget_peak();
    }

    /// Reports progress and checks for cancellation.
    fn report(&self, phase: Phase, done: usize, total: usize) -> Result<()> {
        self.control.report(Progress { phase, done: done as u64, total: total as u64, loss: f64::NAN })
    }

    /// Runs `work` and says how many milliseconds the device was busy with what it enqueued.
    ///
    /// # Errors
    /// Those of `work`; [`Cuda`](crate::Error::Cuda)(crate::Error::Cuda) when the device failed.
    pub fn timed<R>(&self, work: impl FnOnce() -> Result<R>) -> Result<(R, f32)> {
        self.device.enter()?;
        let stream = &self.device.stream;
        let (begin, end) = (Event::new(stream, true)?, Event::new(stream, true)?);
        begin.record(stream)?;
        let result = work()?;
        end.record(stream)?;
        end.wait()?;
        Ok((result, end.since(&begin)?))
    }

    /// Waits until everything enqueued so far has been done.
    ///
    /// # Errors
    /// [`Cuda`](crate::Error::Cuda) when some of it failed.
    pub fn synchronize(&self) -> Result<()> {
        self.device.enter()?;
        self.device.synchronize()
    }
}

impl Backend for Cuda {
    type Matrix = Matrix;

    fn describe(&self) -> String {
        let DeviceInfo { ordinal, name, capability: (major, minor), .. } = &self.device.info;
        let mut text =
            format!("cuda:{ordinal}, {name} (compute capability {major}.{minor}), {}", self.mode.name());
        if self.device.hopper {
            text += ", Hopper kernels";
        }
        let data = self.link.as_ref().map_or(String::new(), |link| format!(", data by {link:?}"));
        text + &self.group.describe(&data)
    }

    fn control(&self) -> &Control {
        &self.control
    }

    fn memory(&self) -> (u64, u64) {
        self.device.account.read()
    }

    fn group(&self) -> &Group {
        &self.group
    }

    fn over_rows(&self, source: &dyn RowSource, read: Reader<'_>) -> Result<Vec<Vec<u64>>> {
        self.over_shares(source, read)
    }

    fn screen_duplicates(&self, source: &dyn RowSource) -> Result<(Survey, Option<Duplicates>)> {
        self.duplicates_of_ranks(source)
    }

    fn arithmetic(&self) -> Arithmetic {
        match self.mode {
            Mode::Fp16 => Arithmetic::F16,
            Mode::Bf16 => Arithmetic::Bf16,
            Mode::Fp32 => Arithmetic::F32,
        }
    }

    /// A panel of weights, and the partial sums of pass 1 with their maxima.
    fn workspace(&self) -> u64 {
        let weight = if self.mode == Mode::Fp32 { 4 } else { 2 };
        (grid::WEIGHT_ROWS * grid::WEIGHT_COLS * weight + 8 * sums::COLUMN_PARTS) as u64
    }

    fn synchronize(&self) -> Result<()> {
        Self::synchronize(self)
    }

    fn product_rate(&self) -> Result<Option<f64>> {
        self.device.enter()?;
        self.gemm_rate().map(Some)
    }

    fn load(&self, source: &dyn RowSource) -> Result<Matrix> {
        self.device.enter()?;
        self.report(Phase::Features, 0, 1)?;
        self.load_share(source)
    }

    fn store(&self, x: &Matrix, sink: &mut dyn FnMut(usize, &[f64]) -> Result<()>) -> Result<()> {
        self.device.enter()?;
        self.store_share(x, sink)
    }

    fn shape(&self, x: &Matrix) -> (usize, usize) {
        (x.all_rows(), x.cols())
    }

    fn rows(&self, x: &Matrix, range: Range<usize>) -> Result<Matrix> {
        let ids: Vec<u32> = range.map(|i| i as u32).collect();
        self.select(x, &ids)
    }

    fn linear(&self, x: &Matrix, w: MatRef<'_, f64>) -> Result<Matrix> {
        self.device.enter()?;
        Ok(self.map_rows(x, self.agreed(w)?.as_ref())?.beside(x))
    }

    fn encode(&self, x: &Matrix, f: MatRef<'_, f64>) -> Result<(Matrix, Vec<f64>)> {
        self.device.enter()?;
        let f = self.agreed(f)?;
        directions(f.as_ref(), x.held().start, |f| self.encode_rows(x, f))
    }

    fn scale_rows(&self, x: &Matrix, scale: &[f64]) -> Result<Matrix> {
        self.device.enter()?;
        Ok(self.scaled_rows(x, scale)?.beside(x))
    }

    fn kernel(&self, kernel: &Kernel, x: &Matrix, landmarks: MatRef<'_, f64>) -> Result<Matrix> {
        self.device.enter()?;
        Ok(self.kernel_rows(kernel, x, self.agreed(landmarks)?.as_ref())?.beside(x))
    }

    fn gram(&self, x: &Matrix) -> Result<Mat<f64>> {
        self.device.enter()?;
        self.gram_of(x)
    }

    fn check_loss(&self, loss: &Loss) -> Result<()> {
        loss.check_built_in("a CUDA device")
    }

    fn weights(
        &self,
        s: Similarity<'_, Matrix>,
        loss: &Loss,
        positives: &Positives,
        negatives: NegativeSampling,
    ) -> Result<Weights> {
        self.check_loss(loss)?;
        self.device.enter()?;
        match s {
            // Coefficients of all rows and columns on every rank: the sweeps take them from the device's memory.
            Similarity::Embeddings(..) => {
                pass1::weights(self, s, loss, positives, negatives)?.complete(&self.group)
            }
            // O(n) numbers, or a given matrix.
            Similarity::Zeros(..) | Similarity::Dense(_) => {
                self.on_host(s, |host, s| host.weights(s, loss, positives, negatives)?.complete(&self.group))
            }
        }
    }

    fn cross(&self, s: Similarity<'_, Matrix>, w: &Weights, x: &Matrix, y: &Matrix) -> Result<Mat<f64>> {
        self.device.enter()?;
        if let Similarity::Dense(_) = s {
            return self
                .on_host(s, |host, s| host.cross(s, w, &self.to_host(host, x)?, &self.to_host(host, y)?));
        }
        pass2::cross(self, s, w, x, y)
    }

    fn apply(&self, s: Similarity<'_, Matrix>, w: &Weights, v: &Matrix) -> Result<Matrix> {
        self.device.enter()?;
        match s {
            Similarity::Dense(_) => self.on_host(s, |host, s| {
                let product = host.apply(s, w, &self.to_host(host, v)?)?;
                self.load_host(host, &product)
            }),
            _ => pass2::apply(self, s, w, false, v),
        }
    }

    fn apply_transpose(&self, s: Similarity<'_, Matrix>, w: &Weights, u: &Matrix) -> Result<Matrix> {
        self.device.enter()?;
        match s {
            Similarity::Dense(_) => self.on_host(s, |host, s| {
                let product = host.apply_transpose(s, w, &self.to_host(host, u)?)?;
                self.load_host(host, &product)
            }),
            _ => pass2::apply(self, s, w, true, u),
        }
    }

    fn gradients(&self, zx: &Matrix, zy: &Matrix, w: &Weights) -> Result<(Matrix, Matrix)> {
        self.device.enter()?;
        gradients(self, zx, zy, w).map(|[of_x, of_y]| (of_x, of_y))
    }

    fn encode_backward(&self, x: &Matrix, z: &Matrix, norms: &[f64], g: &Matrix) -> Result<Mat<f64>> {
        self.device.enter()?;
        self.project_back(x, z, norms, g)
    }

    fn select(&self, x: &Matrix, ids: &[u32]) -> Result<Matrix> {
        self.device.enter()?;
        self.select_rows(x, ids)
    }

    fn dense(&self, s: Similarity<'_, Matrix>, w: &Weights) -> Result<Mat<f64>> {
        self.device.enter()?;
        self.on_host(s, |host, s| host.dense(s, w))
    }

    fn top_r(&self, c: MatRef<'_, f64>, r: usize, method: SvdMethod) -> Result<TopR> {
        self.device.enter()?;
        self.agreed_triplets(|| self.leading_triplets(c, r, method), (c.nrows(), c.ncols()))
    }

    fn hstack(&self, blocks: &[(f64, &Matrix)]) -> Result<Matrix> {
        self.device.enter()?;
        let made = self.side_by_side(blocks)?;
        Ok(match blocks.first() {
            Some((_, first)) => made.beside(first),
            None => made,
        })
    }

    fn top_k(&self, queries: &Matrix, items: &Matrix, k: usize) -> Result<TopK> {
        self.device.enter()?;
        let items = self.complete(items)?;
        self.join_lists(self.search(queries, items, k)?)
    }

    fn standings(
        &self,
        s: Similarity<'_, Matrix>,
        positives: &Positives,
        exclude_self: bool,
    ) -> Result<Vec<Standing>> {
        self.device.enter()?;
        match s {
            Similarity::Embeddings(zx, zy) => {
                let own = self.layout(positives.n_x()).own();
                let whole = (self.complete(zx)?, self.complete(zy)?);
                self.group.concat(self.stand(whole, positives, exclude_self, own)?)
            }
            Similarity::Zeros(..) | Similarity::Dense(_) => {
                self.on_host(s, |host, s| host.standings(s, positives, exclude_self))
            }
        }
    }

    fn positive_similarities(&self, s: Similarity<'_, Matrix>, positives: &Positives) -> Result<Vec<f64>> {
        self.device.enter()?;
        match s {
            Similarity::Embeddings(zx, zy) => {
                let sides = grid::Sides::new(self, self.complete(zx)?, self.complete(zy)?)?;
                Ok(grid::Pairs::new(&sides, &Loss::default(), positives)?.s)
            }
            Similarity::Zeros(..) | Similarity::Dense(_) => {
                self.on_host(s, |host, s| host.positive_similarities(s, positives))
            }
        }
    }
}

/// The same similarities seen from the other side; not for given ones.
fn swapped<'a>(s: Similarity<'a, Matrix>) -> Similarity<'a, Matrix> {
    match s {
        Similarity::Zeros(n_x, n_y) => Similarity::Zeros(n_y, n_x),
        Similarity::Embeddings(zx, zy) => Similarity::Embeddings(zy, zx),
        Similarity::Dense(given) => Similarity::Dense(given),
    }
}
