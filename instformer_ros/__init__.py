"""InstFormer: open-vocabulary video instance segmentation for robots.

The library half (this source tree) and the generated ROS messages (``instformer_ros.msg``, built by colcon) share one
package name. ``extend_path`` lets Python find both when they are installed in different places.
"""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
__version__ = "0.1.0"
