"""Remove XMP properties that refer to parts of a file that are not copied."""

import contextlib
from xml.dom import minidom
from xml.dom.minidom import Element

GOOGLE = "http://ns.google.com/photos/1.0/"
FILE_PARTS = (  # namespaces of data after the image or in further segments of its file
    GOOGLE + "camera/",  # motion photo
    GOOGLE + "container/",
    GOOGLE + "container/item/",
    GOOGLE + "depthmap/",
    GOOGLE + "image/",
    GOOGLE + "audio/",
    "http://ns.google.com/photos/dd/1.0/",  # dynamic depth
    "http://ns.adobe.com/hdr-gain-map/1.0/",  # Ultra HDR
    "http://ns.apple.com/HDRGainMap/1.0/",
    "http://ns.apple.com/pixeldatainfo/1.0/",
    "http://ns.adobe.com/xmp/note/",  # extended XMP
)
STALE = {  # namespace: properties that do not hold for the new pixels
    "http://ns.adobe.com/xap/1.0/": ("Thumbnails",),
    "http://ns.adobe.com/tiff/1.0/": ("ImageWidth", "ImageLength", "Orientation"),
    "http://ns.adobe.com/exif/1.0/": ("PixelXDimension", "PixelYDimension"),
}


def clean(packet: bytes) -> bytes | None:
    """Remove the properties in FILE_PARTS and STALE. Returns None if there are some and the packet cannot be parsed."""
    if not any(name.encode() in packet for name in (*FILE_PARTS, *STALE)):
        return packet
    with contextlib.suppress(Exception):  # third-party XML may be damaged in any way
        if b"<!" in packet.replace(b"<!--", b""):  # a document type may define entities that exhaust memory
            return None
        document = minidom.parseString(packet.strip(b"\0"))
        for root in document.getElementsByTagName("*")[:1]:
            _clean(root)
        return b"".join(node.toxml().encode() for node in document.childNodes)
    return None


def _clean(element: Element) -> None:
    for attribute in list(element.attributes.values()):
        if _is_stale(attribute):
            element.removeAttributeNode(attribute)
    for child in list(element.childNodes):
        if isinstance(child, Element):
            if _is_stale(child):
                element.removeChild(child)
            else:
                _clean(child)


def _is_stale(node: object) -> bool:
    space, name = getattr(node, "namespaceURI", None) or "", getattr(node, "localName", None)
    return space.startswith(FILE_PARTS) or name in STALE.get(space, ())
