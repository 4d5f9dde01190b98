"""Text and photos to the tensors that the model takes: one call for both, as the evaluation harnesses expect."""

from __future__ import annotations

import re
from typing import Any

from transformers import PreTrainedTokenizerFast
from transformers.image_processing_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin

from .image_processing_bitmar import BitMarImageProcessor

Text = str | tuple[str, str]
"""A text, or two that belong together."""


class BitMarProcessor(ProcessorMixin):
    """A fast tokenizer and a `BitMarImageProcessor`."""

    _auto_class = "AutoProcessor"
    # transformers 4 looks the two parts up by these names; 5 reads the constructor.
    attributes = ["image_processor", "tokenizer"]  # noqa: RUF012
    image_processor_class = "AutoImageProcessor"
    tokenizer_class = "AutoTokenizer"

    def __init__(
        self,
        image_processor: BitMarImageProcessor | None = None,
        tokenizer: PreTrainedTokenizerFast | None = None,
        chat_template: str | None = None,
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.image_token = getattr(tokenizer, "image_token", None)

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path: str, *_: Any, **kwargs: Any) -> list[Any]:
        # Both parts are known: no version needs to look for them, and to ask again whether it may trust the code.
        return [
            part.from_pretrained(pretrained_model_name_or_path, **kwargs)
            for part in (BitMarImageProcessor, PreTrainedTokenizerFast)
        ]

    def __call__(
        self,
        *given: Any,
        images: Any = None,
        text: Text | list[Text] | None = None,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Encodes text, photos, or both.

        Args:
            given: images or text without a name, in any order: strings are text, so that a harness which knows only
                tokenizers can call this as one.
            images: a photo or a list (see `BitMarImageProcessor`), one for each text. text: a string, a pair of them,
                or a list. The picture reaches the model beside the text, so a prompt template's placeholder for it is
                taken out.
            kwargs: the tokenizer's (padding, truncation, return_offsets_mapping, add_special_tokens, ...).
        Returns:
            input_ids and attention_mask where there is text, pixel_values (B, 3, S, S) where there are images.
        """
        for value in given:
            if value is None:
                continue
            if _is_text(value) and text is None:
                text = value
            elif not _is_text(value) and images is None:
                images = value
            else:
                raise ValueError("two values for one argument: give images=... and text=... by name")
        if images is None and text is None:
            raise ValueError("nothing to process: give text, images or both")
        data: dict[str, Any] = {}
        if text is not None:
            if kwargs.get("add_special_tokens", True):
                text = self._without(self.tokenizer.bos_token, text, where="^")  # a chat has it, the tokenizer adds it
            data |= self.tokenizer(self._without(self.image_token, text), return_tensors=return_tensors, **kwargs)
        if images is not None:
            data |= self.image_processor(images, return_tensors=return_tensors)
        return BatchFeature(data)

    def _without(self, token: str | None, text: Any, where: str = "") -> Any:
        if not token:
            return text
        if isinstance(text, str):
            return re.sub(where + re.escape(token) + r"\s*", "", text)
        return type(text)(self._without(token, part, where) for part in text)

    # transformers 4 leaves these to the processor.

    def decode(self, *args: Any, **kwargs: Any) -> str:
        """The tokenizer's `decode`."""
        return self.tokenizer.decode(*args, **kwargs)

    def batch_decode(self, *args: Any, **kwargs: Any) -> list[str]:
        """The tokenizer's `batch_decode`."""
        return self.tokenizer.batch_decode(*args, **kwargs)

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "pixel_values"]


def _is_text(value: Any) -> bool:
    """Whether this is a string, or a list or tuple that begins with one at some depth."""
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    return isinstance(value, str)
