// Checked against https://developer.android.com/reference/android/provider/DocumentsContract and
// https://developer.android.com/reference/android/provider/DocumentsContract.Document
package android.provider;

import android.net.Uri;

public final class DocumentsContract {
  public static native String getTreeDocumentId(Uri documentUri);

  public static native Uri buildChildDocumentsUriUsingTree(Uri treeUri, String parentDocumentId);

  public static native Uri buildDocumentUriUsingTree(Uri treeUri, String documentId);

  public static final class Document {
    public static final String COLUMN_DISPLAY_NAME = null;
    public static final String COLUMN_DOCUMENT_ID = null;
    public static final String COLUMN_MIME_TYPE = null;
    public static final String MIME_TYPE_DIR = null;
  }
}
