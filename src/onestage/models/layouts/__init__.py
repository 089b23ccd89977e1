"""The entry names of other projects' checkpoints: one file a project, and the ImageNet networks of VGG-16 and timm."""
