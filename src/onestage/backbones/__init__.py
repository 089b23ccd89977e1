"""Backbones: networks from images to feature maps, finest first."""

from onestage.backbones.base import FeatureMaps
from onestage.backbones.timm import ResNetStages, TimmMaps, timm_normalization
from onestage.backbones.vgg import VGG16Reduced

__all__ = ["FeatureMaps", "ResNetStages", "TimmMaps", "VGG16Reduced", "timm_normalization"]
