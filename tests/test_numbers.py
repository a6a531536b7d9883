"""Dates, durations, masked values and text are refused wherever numbers are needed."""

import datetime

import dask.dataframe as dd
import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.testing import assert_array_equal
from sklearn.linear_model import LinearRegression

from torchpoly import PolynomialFitDisplay, PolynomialGridSearchCV, TorchPolynomialRegressor
from torchpoly.inspection import jackknife_interval

N_ROWS = 20
X_OF_NUMBERS = np.linspace(-1, 1, N_ROWS)[:, None]
Y = X_OF_NUMBERS[:, 0] ** 2
DAYS = pd.date_range("2020-01-01", periods=N_ROWS)
PYTHON_DAYS = list(DAYS.to_pydatetime())
DURATIONS = DAYS - DAYS[0]

DATES = {
    "column": pd.DataFrame({"when": DAYS}),
    "beside numbers": pd.DataFrame({"x": Y, "when": DAYS}),
    "missing date": pd.DataFrame({"when": [pd.NaT, *DAYS[1:]]}),
    "in seconds": pd.DataFrame({"when": DAYS.astype("datetime64[s]")}),
    "time zone": pd.DataFrame({"x": Y, "when": DAYS.tz_localize("UTC")}),
    "periods": pd.DataFrame({"when": DAYS.to_period("D")}),
    "objects": pd.DataFrame({"when": pd.Series([day.date() for day in PYTHON_DAYS], dtype=object)}),
    "durations": pd.DataFrame({"x": Y, "when": DURATIONS}),
    "polars": pl.DataFrame({"x": Y, "when": PYTHON_DAYS}),
    "polars, missing": pl.DataFrame({"when": [None, *PYTHON_DAYS[1:]]}),
    "polars, days": pl.DataFrame({"when": [day.date() for day in PYTHON_DAYS]}),
    "polars, durations": pl.DataFrame({"when": [day - PYTHON_DAYS[0] for day in PYTHON_DAYS]}),
    "polars, times": pl.DataFrame({"when": [datetime.time(hour % 24) for hour in range(N_ROWS)]}),
}
ARRAYS = {
    "array": DAYS.to_numpy()[:, None],
    "array in seconds": DAYS.to_numpy().astype("datetime64[s]")[:, None],
    "array of durations": DURATIONS.to_numpy()[:, None],
    "array of objects": np.array(PYTHON_DAYS, dtype=object)[:, None],
    "lists": [[day, 1.0] for day in PYTHON_DAYS],
}


@pytest.mark.parametrize("kind", [*DATES, *ARRAYS])
def test_dates_as_columns(kind):
    X = (DATES | ARRAYS)[kind]
    named = "Column 'when' of X" if kind in DATES else "X"
    for method in ("fit", "partial_fit"):
        with pytest.raises(TypeError, match=f"{named}.* has (dates|durations|times).*Convert them to floats"):
            getattr(TorchPolynomialRegressor(1), method)(X, Y)


def test_dates_where_numbers_were_fitted():
    model = TorchPolynomialRegressor(1).fit(X_OF_NUMBERS, Y)
    search = PolynomialGridSearchCV(TorchPolynomialRegressor(), {"degree": [1]}).fit(X_OF_NUMBERS, Y)
    dates = DAYS.to_numpy()[:, None]
    calls = [
        lambda: model.predict(dates),
        lambda: model.score(dates, Y),
        lambda: search.predict(dates),
        lambda: PolynomialFitDisplay.from_estimator(model, dates, Y),
        lambda: jackknife_interval(model, dates, Y, X_OF_NUMBERS),
        lambda: jackknife_interval(model, X_OF_NUMBERS, Y, dates),
        lambda: model.fit(X_OF_NUMBERS, DAYS),
        lambda: model.score(X_OF_NUMBERS, DAYS),
        lambda: model.fit(X_OF_NUMBERS, Y, sample_weight=DAYS.to_numpy()),
        lambda: model.score(X_OF_NUMBERS, Y, sample_weight=DAYS.to_numpy()),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="has dates"):
            call()
    with pytest.raises(ValueError, match="has dates"):  # of scikit-learn, which quotes the error of each fit
        PolynomialGridSearchCV(TorchPolynomialRegressor(), {"degree": [1]}).fit(dates, Y)


def test_dates_in_dask():
    da = pytest.importorskip("dask.array")
    dates = da.from_array(DAYS.to_numpy()[:, None], chunks=(10, 1))
    with pytest.raises(TypeError, match="X has dates"):
        TorchPolynomialRegressor(1).fit(dates, da.from_array(Y, chunks=10))


def masked(values):
    mask = np.zeros(np.shape(values), dtype=bool)
    mask.flat[0] = True
    return np.ma.array(values, mask=mask)


def test_masked_values():
    model = TorchPolynomialRegressor(1).fit(X_OF_NUMBERS, Y)
    X, ones = masked(X_OF_NUMBERS), np.ones(N_ROWS)
    calls = {
        "X": [lambda: model.fit(X, Y), lambda: model.predict(X), lambda: model.partial_fit(X, Y)],
        "y": [lambda: model.fit(X_OF_NUMBERS, masked(Y)), lambda: model.score(X_OF_NUMBERS, masked(Y))],
        "sample_weight": [lambda: model.fit(X_OF_NUMBERS, Y, sample_weight=masked(ones))],
    }
    for name, of_name in calls.items():
        for call in of_name:
            with pytest.raises(ValueError, match=f"Input {name} contains masked values: 1"):
                call()
    unmasked = np.ma.array(X_OF_NUMBERS, mask=False)
    assert_array_equal(model.predict(unmasked), model.predict(X_OF_NUMBERS))


@pytest.mark.parametrize("make", [np.array, list, pd.Series, lambda texts: np.array(texts, dtype=object)])
def test_text_as_targets(make):
    texts = [str(value) for value in Y]
    model = TorchPolynomialRegressor(1).fit(X_OF_NUMBERS, make(texts))
    linear = LinearRegression().fit(X_OF_NUMBERS, np.array(texts))
    np.testing.assert_allclose(model.predict(X_OF_NUMBERS), linear.predict(X_OF_NUMBERS), atol=1e-12)
    with pytest.raises(ValueError, match=r"could not convert string to float: .*'low'.*, in y"):
        TorchPolynomialRegressor(1).fit(X_OF_NUMBERS, make(["low"] * N_ROWS))


def test_text_as_targets_in_dask():
    X, texts = pd.DataFrame(X_OF_NUMBERS), pd.Series([str(value) for value in Y])
    model = TorchPolynomialRegressor(1).fit(*(dd.from_pandas(part, npartitions=2) for part in (X, texts)))
    expected = TorchPolynomialRegressor(1).fit(X_OF_NUMBERS, Y).predict(X_OF_NUMBERS)
    np.testing.assert_allclose(model.predict(X), expected, atol=1e-12)
    texts[N_ROWS - 1] = "low"
    with pytest.raises(ValueError, match=r"In partition 1: could not convert string to float: .*'low'.*, in y"):
        TorchPolynomialRegressor(1).fit(*(dd.from_pandas(part, npartitions=2) for part in (X, texts)))
