"""An estimator for scikit-learn: two sets of features of the same samples, as in sklearn.cross_decomposition.

    from unicon_align.sklearn import Alignment
    alignment = Alignment(n_components=16).fit(X, Y)
    Zx, Zy = alignment.transform(X_test, Y_test)      # unit rows: Zx @ Zy.T are cosines
    alignment.score(X_test, Y_test)                   # mean Recall@1 of both directions
"""

from __future__ import annotations

from typing import Any, Callable, Optional, Union

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_consistent_length, check_is_fitted, validate_data

from . import Context, FitInfo, Kernel, Model
from . import kernel as make_kernel
from . import loss as make_loss

__all__ = ["Alignment"]

Array = npt.NDArray[Any]
# Rows of x whose similarities to all of y are held at once.
_PANEL = 1024


class Alignment(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Encoders of two views into a shared space, so that matching rows are near and others are not.

    ``y`` is the second view: row i of ``X`` matches row i of ``y``. Grid search, cross-validation and pipelines split and pass both; a
    pipeline's other steps see ``X`` alone.

    Parameters
    ----------
    n_components : int, "auto" or float, default "auto"
        Dimension of the shared space. "auto" takes the smallest power of two that does as well as more on rows held back, a float below 1
        the share of the energy of the singular values to keep.
    method : {"best", "spectral"}, default "best"
        "best" chooses shrinkage and shape on a tenth of the rows, which it holds back, and refines by descent; "spectral" makes
        ``n_iter`` spectral updates with ``whiten`` and needs n_components as a number.
    loss : {"clip", "sigmoid", "triplet_hard", "triplet_smooth"}, default "clip"
    tau : float or "auto", default 0.07
        Temperature; "auto" with method "best" only.
    whiten : float, list of floats or None, default None
        Shrinkage of the whitening; with "best" candidates for it, None being the usual ones; with "spectral" None is no whitening.
    kernel : str, Kernel, callable or None, default None
        Kernel encoders, as ``unicon_align.kernel``; None: linear ones. A callable takes two arrays and returns the values of a kernel of
        one's own between their rows, ``kernel(A, B)`` of shape (len(A), len(B)), as those of ``sklearn.metrics.pairwise`` do; with
        "precomputed" such values take the place of ``X`` and ``y``: Gram matrices in ``fit``, and values with all samples of ``fit``
        elsewhere. Both with method "spectral" only.
    n_landmarks : int, "all" or None, default None
        Of kernel encoders: 512 by default, at most the samples; "all" is exact.
    center : {"auto", "on", "off"}, default "auto"
        Whether means are taken out of the features.
    n_iter : int or None, default None
        Updates of "spectral": 2 by default, 1 with whitening.
    budget : float or None, default None
        Seconds that ``fit`` may take.
    n_jobs : int or None, default None
        Threads; None: what the environment says, else all cores.
    random_state : int, default 0
        Seed of everything random.
    context : Context or None, default None
        Another device; n_jobs is then its own.

    Attributes
    ----------
    model_ : Model
    info_ : FitInfo
    n_components_ : int
    n_features_in_ : int
    x_weights_, y_weights_ : (n_features, n_components) arrays
        Of linear encoders: embeddings are ``X @ x_weights_ + x_bias_``, divided by their lengths.
    y_embedding_ : (n_samples, n_components) array
        Embeddings of the ``y`` of ``fit``, in which ``predict`` looks.
    """

    def __init__(self, n_components: Union[int, float, str] = "auto", *, method: str = "best", loss: str = "clip",
                 tau: Union[float, str] = 0.07, whiten: Any = None, kernel: Union[None, str, Kernel, Callable[[Any, Any], Any]] = None,
                 n_landmarks: Union[None, int, str] = None, center: str = "auto", n_iter: Optional[int] = None, budget: Optional[float] = None,
                 n_jobs: Optional[int] = None, random_state: int = 0, context: Optional[Context] = None) -> None:
        self.n_components = n_components
        self.method = method
        self.loss = loss
        self.tau = tau
        self.whiten = whiten
        self.kernel = kernel
        self.n_landmarks = n_landmarks
        self.center = center
        self.n_iter = n_iter
        self.budget = budget
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.context = context

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        tags.target_tags.single_output = False
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def fit(self, X: Any, y: Any, *, positives: Any = None) -> Alignment:
        """Fits encoders.

        Parameters
        ----------
        X : (n_samples, n_features) array
        y : (n_samples, n_targets) array
            The second view. A vector is one column.
        positives : optional
            Which rows match where it is not i and i; see ``unicon_align.Positives``.

        Raises
        ------
        ValueError, TypeError
            For parameters and data that are not as above.
        unicon_align.Error
            For what the library refuses.
        """
        X = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2)
        y = self._second(y, X)
        # What a kernel of one's own is taken with.
        self._fit_X: Any = X if callable(self.kernel) else None
        self._fit_y: Any = y if callable(self.kernel) else None
        X, y = self._values(X, self._fit_X, "X"), self._values(y, self._fit_y, "y")
        model, info = self._fitted(X, y, positives)
        self.model_: Model = model
        self.info_: FitInfo = info
        self.n_components_: int = model.r
        self.y_embedding_: Array = model.encode(y, "y")
        return self

    def _fitted(self, X: Array, y: Array, positives: Any) -> tuple[Model, FitInfo]:
        if self.method not in ("best", "spectral"):
            raise ValueError(f"method: expected best or spectral, got {self.method!r}")
        best = self.method == "best"
        if not best and (isinstance(self.n_components, str) or isinstance(self.n_components, float)):
            raise ValueError(f"n_components: expected a number with method='spectral', got {self.n_components!r}")
        if not best and (self.tau == "auto" or np.ndim(self.whiten)):
            raise ValueError("tau, whiten: candidates are chosen from with method='best' only")
        options: dict[str, Any] = {"center": self.center, "seed": self.random_state, "positives": positives}
        if self.tau == "auto":
            options["tau"] = "auto"
            options["loss"] = make_loss(self.loss)
        else:
            options["loss"] = make_loss(self.loss, tau=self.tau)
        if best and (self.kernel == "precomputed" or callable(self.kernel)):
            raise ValueError(f"kernel: expected method='spectral' with kernel={self.kernel!r}: 'best' holds samples back")
        if callable(self.kernel):
            options["kernel"] = make_kernel("precomputed")
        elif self.kernel is not None:
            options["kernel"] = make_kernel(self.kernel) if isinstance(self.kernel, str) else self.kernel
        for name, value in (("n_landmarks", self.n_landmarks), ("whiten", self.whiten), ("budget", self.budget), ("n_iters", self.n_iter)):
            if value is not None and (name != "n_iters" or not best):
                options[name] = value
        if best:
            return self._context().fit_best(X, y, self.n_components, **options)
        return self._context().fit(X, y, int(self.n_components), **options)

    def _values(self, rows: Array, fitted: Optional[Array], name: str) -> Array:
        """The features that the model takes: rows as they are, or the values of a kernel of one's own with those of ``fit``."""
        if fitted is None or not callable(self.kernel):
            return rows
        values = check_array(self.kernel(rows, fitted), dtype=[np.float64, np.float32], input_name=f"kernel({name}, ...)")
        if values.shape != (len(rows), len(fitted)):
            raise ValueError(f"kernel: expected values of shape {(len(rows), len(fitted))} for {name}, got {values.shape}")
        return values

    def _encode_second(self, y: Any) -> Array:
        return self.model_.encode(self._values(self._second(y), getattr(self, "_fit_y", None), "y"), "y")

    def _context(self) -> Context:
        return self.context or Context(n_threads=self.n_jobs)

    def _second(self, y: Any, X: Optional[Array] = None) -> Array:
        if y is None:
            raise ValueError(f"{type(self).__name__}: requires y to be passed, but the target y is None: it is the second view")
        y = check_array(y, dtype=[np.float64, np.float32], ensure_2d=False, input_name="y")
        y = y[:, None] if y.ndim == 1 else y
        if X is not None:
            check_consistent_length(X, y)
        return y

    def _first(self, X: Any) -> Array:
        check_is_fitted(self, "model_")
        return validate_data(self, X, dtype=[np.float64, np.float32], reset=False)

    def transform(self, X: Any, y: Any = None) -> Any:
        """Embeddings: unit rows.

        Parameters
        ----------
        X : (n_samples, n_features) array
        y : (m_samples, n_targets) array, optional

        Returns
        -------
        Zx, or (Zx, Zy) where y is given : (n_samples, n_components) arrays
            float64 of float64, else float32.
        """
        X = self._first(X)
        zx = self.model_.encode(self._values(X, getattr(self, "_fit_X", None), "X"), "x")
        return zx if y is None else (zx, self._encode_second(y))

    def score(self, X: Any, y: Any) -> float:
        """Mean Recall@1 of both directions: the share of rows whose most similar row of the other view is theirs, ties by expectation."""
        zx, zy = self._both(X, y)
        found = self._context().evaluate(zx, zy, [1], resamples=0)
        return float(found["x2y"]["recall"][1] + found["y2x"]["recall"][1]) / 2

    def predict(self, X: Any, y: Any = None) -> npt.NDArray[np.int64]:
        """The number of the row of y that is most similar to each row of X, n_samples values.

        y is the one of ``fit`` unless it is given.
        """
        zx = self.transform(X)
        zy = self.y_embedding_ if y is None else self._encode_second(y)
        return self._context().search(zx, zy, 1)[1][:, 0]

    def ranks(self, X: Any, y: Any) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """The rank of the right row, from 1, for every row of X among those of y, and for every row of y among those of X.

        Ties count by expectation: among k rows that are as similar as the right one it stands in the middle.
        """
        zx, zy = self._both(X, y)
        zx, zy = zx.astype(np.float64, copy=False), zy.astype(np.float64, copy=False)
        return _ranks(zx, zy), _ranks(zy, zx)

    def _both(self, X: Any, y: Any) -> tuple[Array, Array]:
        zx, zy = self.transform(X, self._second(y))
        check_consistent_length(zx, zy)
        return np.asarray(zx), zy

    @property
    def x_weights_(self) -> Array:
        """Of linear encoders, (n_features, n_components)."""
        return self.model_.encoder("x").T

    @property
    def y_weights_(self) -> Array:
        """Of linear encoders, (n_targets, n_components)."""
        return self.model_.encoder("y").T

    @property
    def x_bias_(self) -> Array:
        """Of linear encoders, n_components values: 0 where no mean is taken out."""
        return self.model_.bias("x")

    @property
    def y_bias_(self) -> Array:
        """The same of y."""
        return self.model_.bias("y")

    @property
    def _n_features_out(self) -> int:
        return self.n_components_


def _ranks(queries: Array, items: Array) -> npt.NDArray[np.float64]:
    out = np.empty(len(queries))
    for first in range(0, len(queries), _PANEL):
        rows = slice(first, first + _PANEL)
        s = queries[rows] @ items.T
        own = s[np.arange(len(s)), np.arange(len(s)) + first][:, None]
        out[rows] = 1 + (s > own).sum(axis=1) + ((s == own).sum(axis=1) - 1) / 2
    return out
