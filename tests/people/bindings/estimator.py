"""The estimator for scikit-learn: its own checks, pipelines, searches, and numbers against NumPy in float64."""

import copy
import pickle
import warnings

import numpy as np
from common import raises, unit, x, y
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from unicon_align import Context, FitInfo, Model, kernel
from unicon_align.sklearn import Alignment

# scikit-learn's checks bring one column as y.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    results = check_estimator(Alignment(n_components=1, method="spectral", n_jobs=1), on_fail=None)
    results += check_estimator(Alignment(n_components=1, n_jobs=1), on_fail=None)
failed = [(r["check_name"], r["exception"]) for r in results if r["status"] not in ("passed", "skipped")]
assert not failed and len(results) > 60, failed

x_train, x_test, y_train, y_test = train_test_split(x, y, random_state=0)
for method in ("best", "spectral"):
    a = Alignment(n_components=8, method=method, whiten=0.01, n_jobs=2)
    assert "method='spectral'" in repr(Alignment(method="spectral"))
    raises(NotFittedError, "not fitted", lambda: a.transform(x))
    assert a.fit(x_train, y_train) is a
    assert isinstance(a.model_, Model) and isinstance(a.info_, FitInfo) and a.n_components_ == 8 and a.n_features_in_ == 16
    zx, zy = a.transform(x_test, y_test)
    assert np.array_equal(zx, a.transform(x_test)) and zx.shape == zy.shape == (100, 8) and zx.dtype == np.float32
    linear = x_test.astype(np.float64) @ a.x_weights_ + a.x_bias_, y_test.astype(np.float64) @ a.y_weights_ + a.y_bias_
    s = unit(linear[0]) @ unit(linear[1]).T
    assert np.abs(zx @ zy.T - s).max() < 1e-5
    # Score, matches and ranks.
    right = s.argmax(axis=1), s.argmax(axis=0)
    score = np.mean([(r == np.arange(100)).mean() for r in right])
    assert abs(a.score(x_test, y_test) - score) < 1e-12 and score > 0.9
    assert np.array_equal(a.predict(x_test, y_test), right[0])
    assert np.array_equal(a.predict(x_train), (a.transform(x_train) @ a.transform(x_train, y_train)[1].T).argmax(axis=1))
    own = np.diag(s)
    for got, want in zip(a.ranks(x_test, y_test), ((s >= own[:, None]).sum(axis=1), (s >= own[None, :]).sum(axis=0))):
        assert np.array_equal(got, want)
    for twin in (copy.deepcopy(a), pickle.loads(pickle.dumps(a))):
        assert np.array_equal(twin.transform(x_test), zx)
    fresh = clone(a)
    assert not hasattr(fresh, "model_") and fresh.get_params() == a.get_params()
    assert fresh.set_params(n_components=3).fit(x, y).transform(x).shape == (400, 3)
    assert a.fit_transform(x_train, y_train).shape == (300, 8)
    assert list(a.get_feature_names_out()[:2]) == ["alignment0", "alignment1"]

# Many rows that are alike stand in each other's middle.
a = Alignment(n_components=4, method="spectral").fit(x, y)
same_rows = np.tile(y[:1], (6, 1))
assert np.array_equal(a.ranks(np.tile(x[:1], (6, 1)), same_rows)[0], np.full(6, 3.5)) and abs(a.score(x[:6], same_rows) - 1 / 6) < 0.2

# Pipelines and searches split and pass both sides.
pipe = make_pipeline(StandardScaler(), Alignment(method="spectral", n_jobs=1))
search = GridSearchCV(pipe, {"alignment__n_components": [1, 8], "alignment__whiten": [0.01, 10.0]}, cv=3).fit(x_train, y_train)
assert search.best_params_["alignment__n_components"] == 8 and search.score(x_test, y_test) > 0.9
assert search.transform(x_test).shape == (100, 8)
assert pipe.set_params(alignment__n_components=8).fit_transform(x, y).shape == (400, 8)
scores = cross_val_score(Alignment(n_components=8, n_jobs=1), x, y, cv=4, n_jobs=2)
assert scores.shape == (4,) and scores.min() > 0.9, scores

# Kernels, temperature, budget, positives, data frames, another context.
assert Alignment(n_components=6, kernel="rbf", tau="auto", budget=2.0, whiten=[0.1, 0.01]).fit(x / 4, y / 4).n_components_ == 6
assert Alignment(n_components=6, kernel=kernel("angular"), n_landmarks=50, method="spectral").fit(x, y).n_components_ == 6
assert Alignment(n_components=6, kernel="angular", n_landmarks="all", method="spectral").fit(x, y).n_components_ == 6

# Kernels of one's own: functions of arrays, and their values.
wide_x, wide_y = x.astype(np.float64), y.astype(np.float64)


def rbf(a, b):
    return np.exp(-0.02 * ((a[:, None] - b[None]) ** 2).sum(axis=2))


for n_landmarks in ("all", 40):
    asked = {"n_components": 6, "n_landmarks": n_landmarks, "method": "spectral", "center": "off"}
    built_in = Alignment(kernel=kernel("rbf", gamma=0.02), **asked).fit(wide_x[:300], wide_y[:300])
    own = Alignment(kernel=rbf, **asked).fit(wide_x[:300], wide_y[:300])
    values = Alignment(kernel="precomputed", **asked).fit(rbf(wide_x[:300], wide_x[:300]), rbf(wide_y[:300], wide_y[:300]))
    a_x, a_y = built_in.transform(wide_x[300:], wide_y[300:])
    for b_x, b_y in (own.transform(wide_x[300:], wide_y[300:]),
                     values.transform(rbf(wide_x[300:], wide_x[:300]), rbf(wide_y[300:], wide_y[:300]))):
        assert np.abs(a_x @ a_y.T - b_x @ b_y.T).max() < 1e-7, n_landmarks
    assert np.array_equal(own.predict(wide_x[300:]), built_in.predict(wide_x[300:]))
    assert own.score(wide_x[300:], wide_y[300:]) == built_in.score(wide_x[300:], wide_y[300:])
assert cross_val_score(Alignment(n_components=6, kernel=rbf, method="spectral", n_jobs=1), wide_x, wide_y, cv=3).min() > 0.5
raises(ValueError, "method='spectral'", lambda: Alignment(n_components=6, kernel=rbf).fit(x, y))
raises(ValueError, "expected values of shape", lambda: Alignment(n_components=6, method="spectral", kernel=lambda a, b: a @ a[:3].T).fit(x, y))
raises(RuntimeError, "symmetric", lambda: Alignment(n_components=6, method="spectral", kernel=lambda a, b: a @ b[::-1].T).fit(x, y))
groups = np.repeat(np.arange(200), 2)
assert Alignment(n_components=4).fit(x, y, positives=(groups, groups)).info_.rows_without_positives == 0
assert Alignment(n_components=4, context=Context(n_threads=1)).fit(x, y).n_components_ == 4
assert Alignment(loss="sigmoid", n_components=0.9).fit(x, y).n_components_ >= 1
try:
    import pandas
except ImportError:
    print("skipped: pandas not found; get it with pip install pandas")
else:
    frame = pandas.DataFrame(x, columns=[f"f{k}" for k in range(16)])
    named = Alignment(n_components=4, method="spectral").fit(frame, pandas.DataFrame(y))
    assert list(named.feature_names_in_[:2]) == ["f0", "f1"] and np.array_equal(named.transform(frame), a.transform(x))
    assert isinstance(named.set_output(transform="pandas").transform(frame), pandas.DataFrame)

for parameters, kind, text in [
    ({"method": "worst"}, ValueError, "method"), ({"method": "spectral"}, ValueError, "n_components: expected a number"),
    ({"method": "spectral", "n_components": 4, "tau": "auto"}, ValueError, "with method='best' only"), ({"loss": "hinge"}, ValueError, "loss"),
    ({"center": "middle"}, ValueError, "center"), ({"n_components": 40}, RuntimeError, "r"),
]:
    raises(kind, text, lambda: Alignment(**parameters).fit(x, y))
raises(ValueError, "requires y to be passed", lambda: Alignment().fit(x, None))
raises(ValueError, "inconsistent numbers of samples", lambda: Alignment().fit(x, y[:5]))
print(f"{len(results)} checks of scikit-learn's")
