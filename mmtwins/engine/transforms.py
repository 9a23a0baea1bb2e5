"""Data transforms that mmseg and mmdet lack: checks of what was loaded, with the name of the file."""

import io

import numpy as np
from mmengine import fileio
from mmengine.registry import TRANSFORMS


@TRANSFORMS.register_module()
class CheckImage:
    """Refuse a JPEG file that was cut off, which OpenCV 4 decodes to a partly grey image with only a warning.

    Goes after ``LoadImageFromFile``.

    Raises:
        ValueError: The file has no end-of-image marker behind its image data.
    """

    def __call__(self, results: dict) -> dict:
        path = str(results.get('img_path'))
        if path.lower().endswith(('.jpg', '.jpeg')):
            content = fileio.get(path)
            # Thumbnails in the header have both markers too; those of the image itself come last.
            if content.rfind(b'\xff\xd9') < content.rfind(b'\xff\xda'):
                raise ValueError(f'{path} is truncated: its end is missing, copy or download it again')
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}()'


@TRANSFORMS.register_module()
class CheckLabels:
    """Refuse an annotation image with a label that the model has no class for.

    Goes after ``LoadAnnotations`` and reads the file again, because MMSegmentation cuts labels down to eight bits.
    Without the check such a label counts as another class or is ignored, or ends in an index error of the loss, on a
    GPU in a device assertion that names no file.

    Args:
        num_classes: Classes of the data set. In the file they are 1 to ``num_classes`` with 0 = other where the data
            set has ``reduce_zero_label``, as ADE20K has, else 0 to ``num_classes`` - 1.
        ignore_label: A further value in the file that stands for no class, such as 255.

    Raises:
        ValueError: A pixel has another label, or the file is no label image.
    """

    def __init__(self, num_classes: int, ignore_label: int | None = None) -> None:
        self.num_classes = num_classes
        self.ignore_label = ignore_label

    def __call__(self, results: dict) -> dict:
        if results.get('seg_map_path') is None:
            return results
        from PIL import Image

        path = results['seg_map_path']
        with Image.open(io.BytesIO(fileio.get(path))) as image:
            labels = np.asarray(image)
        if labels.ndim != 2:
            raise ValueError(f'{path} is no label image: it has {labels.shape[2]} channels, a label image has one')
        last = self.num_classes - (not results.get('reduce_zero_label'))
        wrong = labels[(labels < 0) | (labels > last)]
        if self.ignore_label is not None:
            wrong = wrong[wrong != self.ignore_label]
        if wrong.size:
            raise ValueError(
                f'{path} has the label {wrong[0]}, but labels go from 0 to {last} for {self.num_classes} classes'
                f'{" and 0 = other" if last == self.num_classes else ""}: correct the file, the number of classes, or '
                'name a label for no class as ignore_label'
            )
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(num_classes={self.num_classes}, ignore_label={self.ignore_label})'
