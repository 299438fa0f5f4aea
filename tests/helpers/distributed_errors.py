"""Run by `test_tf_distribute_bad_input.py` in a process of its own: what two mirrored devices refuse, as JSON."""

import json
import warnings

import keras
import numpy as np
import tensorflow as tf

from helpers import distributed_fit
from helpers.distributed_fit import X, Y, batches, make_model
from keras_logit_adjust import tf_distribute
from keras_logit_adjust.data import LongTailSampler

ONE_HOT = np.eye(4, dtype="float32")[Y]
WRONG = np.where(np.arange(len(Y)) == 65, 9, Y)
HOLED = np.where(np.arange(len(X))[:, None] == 65, np.nan, X).astype("float32")


def fit(model, data, **options):
    return tf_distribute.fit(model, data, **{"verbose": 0, **options})


def model_outside(mirrored):
    model = make_model(tf.distribute.get_strategy())
    with mirrored.scope():
        fit(model, batches(64, X, Y))


def model_of_another_scope(mirrored):
    model = make_model(mirrored)
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        fit(model, batches(64, X, Y))


def optimizer_outside(mirrored):
    optimizer = keras.optimizers.SGD()
    model = make_model(mirrored)
    model.compile(optimizer, model.loss)
    fit(model, batches(64, X, Y))


def accumulated(mirrored):
    with mirrored.scope():
        model = make_model(mirrored)
        model.compile(keras.optimizers.SGD(gradient_accumulation_steps=2), model.loss)
    fit(model, batches(64, X, Y))


def first_batch_of_one(mirrored):
    fit(make_model(mirrored), batches(1, X, Y))


def fewer_batches_than_steps(mirrored):
    fit(make_model(mirrored), batches(67, X, Y), validation_data=batches(67, X, Y), validation_steps=3)


def normalized(mirrored, *data, **options):
    with mirrored.scope():
        norm = keras.layers.BatchNormalization(name="norm", **options)
        model = keras.Sequential([keras.Input((5,)), norm, keras.layers.Dense(4)])
        distributed_fit.compile_plain(model)
    fit(model, *data)


def norm_of_an_empty_replica(mirrored):
    normalized(mirrored, batches(65, X, Y))


def convolution_of_an_empty_replica(mirrored):
    with mirrored.scope():
        layers = [keras.layers.Conv1D(2, 1, name="images"), keras.layers.Flatten(), keras.layers.Dense(4)]
        model = keras.Sequential([keras.Input((5, 1)), *layers])
    tf_distribute.predict(model, batches(65, X[..., None]), verbose=0)


def frozen_norm(mirrored):
    normalized(mirrored, batches(65, X, Y), trainable=False)


def own_loss(mirrored, data):
    with mirrored.scope():
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model = make_model(mirrored, loss)
    fit(model, data)


def own_loss_on_uneven(mirrored):
    own_loss(mirrored, batches(66, X, Y))


def own_loss_on_full(mirrored):
    own_loss(mirrored, batches(64, X, Y).unbatch().batch(64, drop_remainder=True))


def no_loss(mirrored):
    class Squares(keras.layers.Layer):
        def call(self, inputs):
            self.add_loss(keras.ops.mean(keras.ops.square(inputs)))
            return inputs

    with mirrored.scope():
        model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4), Squares()])
        model.compile("sgd")
    fit(model, batches(64, X))


class Silent(keras.Model):
    def train_step(self, data):
        super().train_step(data)
        return {}


def no_logs(mirrored):
    with mirrored.scope():
        inputs = keras.Input((5,))
        model = Silent(inputs, keras.layers.Dense(4)(inputs))
        distributed_fit.compile_plain(model)
    fit(model, batches(64, X, Y))


def weights_for_distributed(mirrored):
    fit(make_model(mirrored), mirrored.experimental_distribute_dataset(batches(64, X, Y)), class_weight={0: 2.0})


def batches_that_do_not_divide(mirrored):
    sampler = LongTailSampler(Y[:67], 9, seed=1)

    def dataset(sampler):
        return mirrored.distribute_datasets_from_function(
            lambda context: sampler.dataset((X[:67], Y[:67]), map_fn=None, input_context=context)
        )

    fit(make_model(mirrored), dataset, sampler=sampler)


def wrong_id(mirrored):
    fit(make_model(mirrored), batches(67, X, WRONG))


def holed_feature(mirrored):
    fit(make_model(mirrored), batches(67, HOLED, ONE_HOT))


def wrong_small_id(mirrored):
    fit(make_model(mirrored), batches(67, X, WRONG.astype("uint8")))


def alone(mirrored):
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    fit(make_model(strategy), batches(64, X, Y))


CASES = (
    model_outside,
    model_of_another_scope,
    optimizer_outside,
    accumulated,
    first_batch_of_one,
    fewer_batches_than_steps,
    norm_of_an_empty_replica,
    convolution_of_an_empty_replica,
    frozen_norm,
    own_loss_on_uneven,
    own_loss_on_full,
    no_loss,
    no_logs,
    weights_for_distributed,
    batches_that_do_not_divide,
    wrong_id,
    holed_feature,
    wrong_small_id,
    alone,
)


def outcome(case, strategy):
    """The type and the text of the error, and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            case(strategy)
            error = ["", ""]
        except Exception as raised:
            error = [type(raised).__name__, str(raised)]
    return [*error, [str(warning.message) for warning in caught if warning.category is UserWarning]]


if __name__ == "__main__":
    mirrored = distributed_fit.make_strategy("mirrored")
    print(json.dumps({case.__name__: outcome(case, mirrored) for case in CASES}))
