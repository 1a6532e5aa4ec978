"""DomainNet: 345 classes in six kinds of pictures, without the published duplicates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from dgbench.core.data_cards import Archive, DatasetCard
from dgbench.core.errors import UserError
from dgbench.core.progress import ReportProgress
from dgbench.data.duplicates import remove
from dgbench.datasets._images import ImageDataset
from dgbench.datasets._tree import Tree, matching

_CLASSES = """
The_Eiffel_Tower The_Great_Wall_of_China The_Mona_Lisa aircraft_carrier airplane alarm_clock ambulance angel
animal_migration ant anvil apple arm asparagus axe backpack banana bandage barn baseball baseball_bat basket basketball
bat bathtub beach bear beard bed bee belt bench bicycle binoculars bird birthday_cake blackberry blueberry book
boomerang bottlecap bowtie bracelet brain bread bridge broccoli broom bucket bulldozer bus bush butterfly cactus cake
calculator calendar camel camera camouflage campfire candle cannon canoe car carrot castle cat ceiling_fan cell_phone
cello chair chandelier church circle clarinet clock cloud coffee_cup compass computer cookie cooler couch cow crab
crayon crocodile crown cruise_ship cup diamond dishwasher diving_board dog dolphin donut door dragon dresser drill drums
duck dumbbell ear elbow elephant envelope eraser eye eyeglasses face fan feather fence finger fire_hydrant fireplace
firetruck fish flamingo flashlight flip_flops floor_lamp flower flying_saucer foot fork frog frying_pan garden
garden_hose giraffe goatee golf_club grapes grass guitar hamburger hammer hand harp hat headphones hedgehog helicopter
helmet hexagon hockey_puck hockey_stick horse hospital hot_air_balloon hot_dog hot_tub hourglass house house_plant
hurricane ice_cream jacket jail kangaroo key keyboard knee knife ladder lantern laptop leaf leg light_bulb lighter
lighthouse lightning line lion lipstick lobster lollipop mailbox map marker matches megaphone mermaid microphone
microwave monkey moon mosquito motorbike mountain mouse moustache mouth mug mushroom nail necklace nose ocean octagon
octopus onion oven owl paint_can paintbrush palm_tree panda pants paper_clip parachute parrot passport peanut pear peas
pencil penguin piano pickup_truck picture_frame pig pillow pineapple pizza pliers police_car pond pool popsicle postcard
potato power_outlet purse rabbit raccoon radio rain rainbow rake remote_control rhinoceros rifle river roller_coaster
rollerskates sailboat sandwich saw saxophone school_bus scissors scorpion screwdriver sea_turtle see_saw shark sheep
shoe shorts shovel sink skateboard skull skyscraper sleeping_bag smiley_face snail snake snorkel snowflake snowman
soccer_ball sock speedboat spider spoon spreadsheet square squiggle squirrel stairs star steak stereo stethoscope
stitches stop_sign stove strawberry streetlight string_bean submarine suitcase sun swan sweater swing_set sword syringe
t-shirt table teapot teddy-bear telephone television tennis_racquet tent tiger toaster toe toilet tooth toothbrush
toothpaste tornado tractor traffic_light train tree triangle trombone truck trumpet umbrella underwear van vase violin
washing_machine watermelon waterslide whale wheel windmill wine_bottle wine_glass wristwatch yoga zebra zigzag
"""
_HOST = "http://csr.bu.edu/ftp/visda/2019/multi-source/"
_LIST = "domain_net_duplicates.txt"


class DomainNet(ImageDataset):
    """Images of 345 classes: six domains, clip art, infographics, paintings, quick drawings, photos and sketches.

    586,575 images of any size. The archives hold 596,006: 9,431 files are duplicates that DomainBed lists and removes,
    and `download` removes them too. With them training and validation share images, so the folder is refused until they
    are gone; DomainBed goes on silently if it can't delete one.

    Some JPEGs of `painting` end early. As in DomainBed they are decoded as far as they go, and logged by name;
    `--skip_bad_images` leaves them out. Runs train for 15,001 steps by default, as later papers do, and for DomainBed's
    5,001 under its presets.

    Reference:
        Peng, Bai, Xia, Huang, Saenko and Wang, "Moment Matching for Multi-Source Domain Adaptation", ICCV 2019.
    """

    card = DatasetCard(
        source=f"{_HOST} (a zip file a domain)",
        licence="research only (the authors' fair-use notice)",
        paper="Peng et al., Moment Matching for Multi-Source Domain Adaptation, ICCV 2019",
        link="https://arxiv.org/abs/1812.01754",
        input_shape=(3, 224, 224),
        domains=("clipart", "infograph", "painting", "quickdraw", "real", "sketch"),
        classes=tuple(_CLASSES.split()),
        shares={
            "web": "its images come from image searches, but for those of quickdraw; LAION has images of its styles "
            "(Mayilvahanan et al., ICLR 2025)",
        },
        counts={
            "clipart": 48_129,
            "infograph": 51_605,
            "painting": 72_266,
            "quickdraw": 172_500,
            "real": 172_947,
            "sketch": 69_128,
        },
        duplicates={
            "clipart": 704,
            "infograph": 1_596,
            "painting": 3_493,
            "quickdraw": 0,
            "real": 2_380,
            "sketch": 1_258,
        },
        known_bad={
            "some files of painting": "are cut off at the end; as in DomainBed, they are decoded as far as they go, "
            "unless --skip_bad_images leaves them out"
        },
        mirrors=("https://ai.bu.edu/M3SDA/", f"misc/{_LIST} in DomainBed's repository, for the list of duplicates"),
        note="586,575 images; the 596,006 of the archives hold duplicates, which `download` removes",
        folder="domain_net",
        steps=15_001,
        checkpoint_freq=500,
        of_domainbed={"steps": 5001, "checkpoint_freq": 1000},
    )
    archives = (
        Archive("clipart.zip", f"{_HOST}groundtruth/clipart.zip"),
        Archive("infograph.zip", f"{_HOST}infograph.zip"),
        Archive("painting.zip", f"{_HOST}groundtruth/painting.zip"),
        Archive("quickdraw.zip", f"{_HOST}quickdraw.zip"),
        Archive("real.zip", f"{_HOST}real.zip"),
        Archive("sketch.zip", f"{_HOST}sketch.zip"),
        Archive(_LIST, f"https://raw.githubusercontent.com/facebookresearch/DomainBed/main/domainbed/misc/{_LIST}"),
    )

    cut_off = ("painting",)

    def further_problems(self, tree: Tree) -> Iterator[str]:
        """Yield how to remove the duplicates, if the counts are those of the archives."""
        counts, duplicates, name = self.card.counts, self.card.duplicates, type(self).__name__
        if matching(tree, {"with": {domain: counts[domain] + duplicates[domain] for domain in counts}}):
            yield (
                f"that is {name} with the {sum(duplicates.values()):,} duplicates that DomainBed removes: get its list "
                f"misc/{_LIST} and run `python -m dgbench.download {name} --data_dir {self.data_dir} "
                f"--remove_duplicates {_LIST}`"
            )

    @classmethod
    def download(cls, data_dir: Path, sources: Sequence[Path], progress: ReportProgress) -> None:
        """Make the folder as every data set does; refuse sources without the list of duplicates."""
        if sources and not any(source.name == _LIST or source.is_dir() for source in sources):
            raise UserError(f"--from lacks {_LIST}: get it from misc/ in DomainBed's repository, and name it too")
        super().download(data_dir, sources, progress)

    @classmethod
    def arrange(cls, unpacked: Path, folder: Path, progress: ReportProgress) -> None:
        """Move the domains' folders, and remove the listed duplicates."""
        listed = unpacked / _LIST
        if listed.is_file():
            listed = listed.rename(unpacked.with_name(_LIST))
        super().arrange(unpacked, folder, progress)
        if listed.is_file():
            remove(folder, listed, cls.card.duplicates)
