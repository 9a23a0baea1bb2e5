"""What the page asks of the model, and the files that it gives to download."""

import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmtwins.inference.writers import ResultWriter
from mmtwins.page.asking import Model, write_files


def test_an_image_is_predicted_on_as_by_infer(segmentor, photo):
    found = Model(segmentor).predict(photo)
    (expected,) = segmentor([str(photo)])
    np.testing.assert_array_equal(found.kept.labels, expected.labels)
    np.testing.assert_array_equal(found.kept.image, expected.image)
    assert found.kept.image.shape == (128, 96, 3)  # turned as its EXIF data say
    assert found.seconds > 0 and found.note == ''


def test_instances_below_the_threshold_are_kept_and_the_predictor_is_left_as_it_was(detector, detected):
    model = Model(detector)
    assert (model.threshold, model.lowest, detector.score_thr) == (0.6, 0.05, 0.6)
    assert 0.05 <= detected.scores.min() < 0.6


def test_files_that_give_nothing_say_why_without_their_path(segmentor, bad_images, tmp_path):
    model = Model(segmentor)
    for path, reason in bad_images.values():
        with pytest.raises(ValueError, match=reason) as error:
            model.predict(path)
        assert str(path.parent) not in str(error.value)
    with pytest.raises(ValueError, match='no longer here'):
        model.predict(tmp_path / 'gone.png')


def test_a_file_with_several_pictures_has_a_note(segmentor, tmp_path):
    pictures = [Image.fromarray(np.full((64, 64, 3), value, np.uint8)) for value in (0, 99)]
    pictures[0].save(tmp_path / 'film.tif', save_all=True, append_images=pictures[1:])
    note = Model(segmentor).predict(tmp_path / 'film.tif').note
    assert note.startswith('holds 2 pictures') and str(tmp_path) not in note


def test_an_image_named_as_a_video_is_an_image(segmentor, photo, tmp_path):
    path = tmp_path / 'photo.mp4'
    path.write_bytes(photo.read_bytes())
    assert Model(segmentor).predict(path).kept.labels.shape == (128, 96)


def test_stages_have_kinds_and_heads(segmentor):
    assert Model(segmentor).stages == [{'LSA': n, 'GSA': n} for n in (1, 2, 4, 6)]


def test_a_point_is_seen_in_every_stage(segmentor, segmented):
    found = Model(segmentor).inspect(segmented, 20, 110)
    assert {one.point for one in found.maps} == {(20.5, 110.5)} and {one.stage for one in found.maps} == {1, 2, 3, 4}
    assert found.image.shape == (128, 96, 3)
    with pytest.raises(ValueError, match='outside the image of 96 x 128'):
        Model(segmentor).inspect(segmented, 110, 20)


def test_the_model_works_on_one_image_at_a_time(segmentor, photo, monkeypatch):
    model, running, most = Model(segmentor), [], []
    forward = segmentor.inferencer.forward

    def slow(*args, **kwargs):
        running.append(1)
        most.append(len(running))
        time.sleep(0.05)
        result = forward(*args, **kwargs)
        running.pop()
        return result

    monkeypatch.setattr(segmentor.inferencer, 'forward', slow)
    threads = [threading.Thread(target=model.predict, args=(photo,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]


def test_downloads_of_a_segmentation_are_the_files_of_infer(segmentor, segmented, photo, tmp_path):
    made = write_files(segmented, 0.5, segmented.info.palette, tmp_path / 'page')
    (result,) = segmentor([str(photo)])
    with ResultWriter(tmp_path / 'infer', [str(photo)], segmentor.info, False) as writer:
        writer.add(result)
    for what, name, expected in (
        ('overlay', 'a photo_overlay.png', 'overlays/a photo.png'),
        ('labels', 'a photo_labels.png', 'labels/a photo.png'),
        ('json', 'a photo_classes.json', 'classes.json'),
    ):
        assert made[what] == str(tmp_path / 'page' / name)
        assert (tmp_path / 'page' / name).read_bytes() == (tmp_path / 'infer' / expected).read_bytes()


def test_downloads_of_a_detection_have_the_threshold_and_the_palette(detector, detected, photo, tmp_path):
    made = write_files(detected, 0.6, detected.info.palette, tmp_path / 'page')
    detector_at = Model(detector)._predictor
    detector_at.score_thr = 0.6
    (result,) = detector_at([str(photo)])
    with ResultWriter(tmp_path / 'infer', [str(photo)], detector.info, True) as writer:
        writer.add(result)
    found = json.loads(Path(made['json']).read_text())
    assert found == json.loads((tmp_path / 'infer' / 'coco_results.json').read_text()) and len(found) > 1
    assert json.loads(Path(made['images']).read_text())['images'][0]['file_name'] == 'a photo.jpg'
    assert (
        json.loads(Path(write_files(detected, 1.0, detected.info.palette, tmp_path / 'none')['json']).read_text()) == []
    )
    other = write_files(detected, 0.6, ((0, 0, 0),) * 6, tmp_path / 'black')
    assert Path(other['overlay']).read_bytes() != Path(made['overlay']).read_bytes()


def test_a_very_long_name_can_be_downloaded(segmentor, photo, tmp_path):
    path = tmp_path / ('n' * 250 + '.jpg')
    path.write_bytes(photo.read_bytes())
    made = write_files(Model(segmentor).predict(path).kept, 0.3, segmentor.info.palette, tmp_path / 'out')
    assert all(len(name.rpartition('/')[2]) < 100 for name in made.values())
