package edgeqkv.sample

import android.content.ContentResolver
import android.net.Uri
import android.provider.DocumentsContract
import android.provider.DocumentsContract.Document
import edgeqkv.core.EdgeQkvException
import java.io.File

/** A folder that the user picked in the system's dialog, which tells what is in it and opens files, but has no paths. */
class PickedFolder(private val resolver: ContentResolver, private val tree: Uri) {
    private class Entry(val name: String, val id: String, val isFolder: Boolean)

    /** Copy it, whole or not at all, to where another bundle may lie. */
    fun copyBundleTo(folder: File) {
        val top = DocumentsContract.getTreeDocumentId(tree)
        if (entries(top).none { it.name == MANIFEST }) {
            throw EdgeQkvException("there is no $MANIFEST in that folder. A bundle is a folder that 'edgeqkv export' wrote")
        }
        val copy = File(folder.parentFile, "${folder.name}.new")
        copy.deleteRecursively()
        copy(top, copy)
        folder.deleteRecursively()
        if (!copy.renameTo(folder)) throw EdgeQkvException("$copy could not be renamed to $folder")
    }

    private fun copy(id: String, to: File) {
        to.mkdirs()
        for (entry in entries(id)) {
            val file = File(to, entry.name)
            if (entry.isFolder) {
                copy(entry.id, file)
                continue
            }
            val stream = resolver.openInputStream(DocumentsContract.buildDocumentUriUsingTree(tree, entry.id))
                ?: throw EdgeQkvException("'${entry.name}' cannot be read")
            stream.use { from -> file.outputStream().use { from.copyTo(it) } }
        }
    }

    private fun entries(id: String): List<Entry> {
        val children = DocumentsContract.buildChildDocumentsUriUsingTree(tree, id)
        val columns = arrayOf(Document.COLUMN_DISPLAY_NAME, Document.COLUMN_DOCUMENT_ID, Document.COLUMN_MIME_TYPE)
        val cursor = resolver.query(children, columns, null, null, null)
            ?: throw EdgeQkvException("that folder cannot be read")
        return cursor.use {
            buildList {
                while (it.moveToNext()) {
                    val name = it.getString(0)
                    // Some other app may tell the names; none leads out of the folder.
                    if ('/' in name || name == "..") throw EdgeQkvException("'$name' is no name of a file")
                    add(Entry(name, it.getString(1), it.getString(2) == Document.MIME_TYPE_DIR))
                }
            }
        }
    }

    private companion object {
        const val MANIFEST = "manifest.json"
    }
}
