"""The base class of all metrics here. Their sums are float32."""

from keras_logit_adjust import _checks, _keras


class Float32Metric(_keras.HigherIsBetter):
    """A metric whose sums are float32 under every policy. A sum in half precision stops growing at 256."""

    def __new__(cls, *args, **kwargs):
        _checks.refuse_dtype(
            cls, kwargs, "it counts in float32 whatever the policy, since half precision stops counting at 256"
        )
        return super().__new__(cls)

    def __init__(self, name):
        super().__init__(name=name, dtype="float32")
