"""The top of a figure of attention: the image with its points, and a legend of the signs in the panels."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..plotting import panel_shape
from .attention_panels import (
    DASHED,
    NO_KEY,
    TOKEN,
    frame,
    image_extent,
    in_image,
    mark,
    outlined,
    view,
    without_key,
)
from .inspection import Inspection

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Place(NamedTuple):
    """A rectangle of a figure, in inches from its top left corner."""

    figure: 'Figure'
    left: float
    top: float
    width: float
    height: float

    def part(self, left: float, top: float, width: float, height: float) -> 'Place':
        """A rectangle inside this one, in inches from its top left corner."""
        return Place(self.figure, self.left + left, self.top + top, width, height)

    def axes(self) -> 'Axes':
        """Axes that fill the rectangle."""
        width, height = self.figure.get_size_inches()
        bottom = height - self.top - self.height
        return self.figure.add_axes((self.left / width, bottom / height, self.width / width, self.height / height))

    def write(self, x: float, y: float, text: str, **style: Any) -> None:
        """Write text at a place of the rectangle, in inches from its top left corner."""
        width, height = self.figure.get_size_inches()
        self.figure.text((self.left + x) / width, 1 - (self.top + y) / height, text, **style)


class Header(NamedTuple):
    """The plan of the top: places of image and legend, in inches, the signs, and a note."""

    image: tuple[float, float, float, float]  # left, top, width, height
    legend: tuple[float, float, float, float]
    signs: list[tuple[Any, str]]
    columns: int
    note: str
    height: float


def plan_header(inspection: Inspection, width: float) -> Header:
    """Divide the top of a page: the legend goes beside the image, or below one that is flat.

    Args:
        inspection: The image, and the attention maps whose signs the legend explains.
        width: Width of the page, in inches.

    Returns:
        The plan.
    """
    signs = _signs(inspection)
    box = view(inspection)
    shape = box.height / box.width
    height, pixels = inspection.image.shape[:2]
    is_stretched = shape != panel_shape(shape)
    note = f'stretched: the image has {pixels} x {height} pixels' if is_stretched else ''
    numbers, below = 0.62, 0.5  # along the axes
    if shape < 0.4:  # the legend goes below
        image = (numbers, 0.05, width - numbers - 0.2, (width - numbers - 0.2) * max(shape, 0.08))
        lines = -(-len(signs) // 2) + bool(note)
        legend = (0.1, image[3] + below + 0.05, width - 0.1, 0.235 * lines + 0.05)
        return Header(image, legend, signs, 2, note, legend[1] + legend[3])
    wide = min(3.0, 0.4 * width)
    image = (numbers, 0.05, wide, wide * min(shape, 1.3))
    lines = len(signs) + bool(note)
    legend = (numbers + wide + 0.3, 0.05, width - numbers - wide - 0.3, 0.235 * lines + 0.05)
    return Header(image, legend, signs, 1, note, max(image[3] + below, legend[3]) + 0.05)


def _signs(inspection: Inspection) -> list[tuple[Any, str]]:
    """Signs that the panels have, and what they mean."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    maps = inspection.maps
    kinds = {found.kind for found in maps}
    boxed: dict[str, Any] = dict(facecolor='#555555', edgecolor='white')
    signs: list[tuple[Any, str]] = [
        (Line2D([], [], linestyle='', marker='P', markersize=9, markerfacecolor='white', mec='black'), 'the point'),
        (Patch(facecolor='#555555', edgecolor=TOKEN, **outlined(2)), 'its token, the query'),
    ]
    if kinds == {'LSA', 'GSA'}:
        signs.append((Patch(linestyle=DASHED, **boxed, **outlined(1.5)), 'its window in LSA'))
    if 'GSA' in kinds:
        signs.append((Patch(hatch='++', **boxed), 'sub-windows of GSA, one key each'))
    if any(found.padding_share.any() for found in maps):
        signs.append((Patch(hatch='//', **boxed), 'padding tokens, which take weight'))
    height, width = inspection.image.shape[:2]
    is_padded = view(inspection).width > width + 0.5 or view(inspection).height > height + 0.5
    if is_padded or any(without_key(inspection, found) for found in maps):
        signs.append((Patch(facecolor=NO_KEY, edgecolor='black', linewidth=0.5), 'no key, or image padding'))
    bar = Patch(facecolor='#5ec962', edgecolor='black', linewidth=0.5, alpha=0.62)
    return [*signs, (bar, 'weight of a key: its colour, in %')]


def draw_header(place: Place, header: Header, inspection: Inspection, points: Sequence[tuple[float, float]]) -> None:
    """Draw the image, and the legend beside or below it.

    Args:
        place: Rectangle of the size that :func:`plan_header` gives.
        header: The plan.
        inspection: The image and its attention maps.
        points: Points in pixels of the network's input; several are numbered.
    """
    from matplotlib.ticker import MaxNLocator

    axis = place.part(*header.image).axes()
    axis.imshow(inspection.image, extent=image_extent(inspection))
    frame(axis, view(inspection))
    axis.set_xlabel('x (pixels)', fontsize=8.5, labelpad=2)
    axis.set_ylabel('y (pixels)', fontsize=8.5, labelpad=2)
    axis.tick_params(labelsize=8, pad=2, length=3)
    axis.xaxis.set_major_locator(MaxNLocator(5 if header.columns == 1 else 10))
    axis.yaxis.set_major_locator(MaxNLocator(max(1, round(2 * header.image[3]))))
    for number, point in enumerate(points, start=1):
        x, y = in_image(inspection, point)
        mark(axis, x, y)
        if len(points) > 1:
            axis.annotate(
                str(number),
                (x, y),
                xytext=(10 if x < view(inspection).width / 2 else -10, 0),
                textcoords='offset points',
                fontsize=9,
                ha='center',
                va='center',
                bbox=dict(boxstyle='circle,pad=0.15', facecolor='white', edgecolor='black'),
            )
    part = place.part(*header.legend)
    axis = part.axes()
    axis.set_axis_off()
    axis.legend(
        *zip(*header.signs),
        loc='upper left',
        bbox_to_anchor=(0, 1),
        borderaxespad=0,
        borderpad=0,
        ncols=header.columns,
        frameon=False,
        fontsize=9.5,
        handlelength=2.2,
        handleheight=1.2,
    )
    if header.note:
        part.write(0, part.height - 0.05, header.note, fontsize=9.5, style='italic', va='bottom')
